"""Everything that owns a folder: runs, studies, searches, audits and their reports."""

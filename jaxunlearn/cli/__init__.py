"""The commands: `commands` has one function for each, `lists` the tables of `jaxunlearn list`."""

"""The tests; nobody else's programs are in their processes, so that all may be let go."""

from jaxunlearn.training.compilation import own_process

own_process()

"""The diffusion of a problem, as studies and flags give it."""

import pytest

from jaxunlearn.models.process import Process
from jaxunlearn.studies.config import Problem
from jaxunlearn.studies.diffusion import Diffusion
from jaxunlearn.studies.fields import from_dict
from jaxunlearn.types import InputError

OLD = (
    *("num_timesteps", "schedule", "prediction", "variance", "reduction", "label_drop"),
    *("fisher_guidance", "sampler", "sampling_steps", "eta", "guidance", "samples"),
)


def test_a_problem_of_an_older_version_is_still_the_same_problem():
    problem = Problem(model="ddpm-tiny")
    assert tuple(problem.identity()["diffusion"]) == OLD
    given = Problem(model="ddpm-tiny", diffusion=Diffusion(spacing="trailing"))
    assert tuple(given.identity()["diffusion"]) == (*OLD, "spacing")
    assert from_dict(Problem, given.identity(), "a record") == given


def test_the_process_has_the_fields_of_the_diffusion():
    assert Diffusion().process() == Process()
    betas = {"beta_start": 1e-3, "beta_end": 1e-2, "num_timesteps": 60}
    assert Diffusion(**betas, spacing="leading").process() == Process(**betas, spacing="leading")


def test_a_scheduler_gives_the_process_and_the_sampler():
    for name, sampler in (("DDPM", "ddpm"), ("DDIM", "ddim_diffusers"), ("PNDM", "ddim_diffusers")):
        config = {"_class_name": f"{name}Scheduler", "steps_offset": 1}
        found = Diffusion.from_scheduler(config, variance="learned_range", samples=3)
        assert (found.sampler, found.samples) == (sampler, 3)
        assert found.process().variance == "learned_range" and found.steps_offset == 1
        assert Process.from_scheduler(config).to_scheduler(like=config) == config


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"spacing": "leading", "steps_offset": 30}, "steps_offset is 30, but must be below 20"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr is true, but must be false"),
        ({"beta_end": 0.1}, "beta_start is None, but must be above 0 and below 1"),
    ],
)
def test_bad_processes_are_refused_at_the_door(bad, words):
    with pytest.raises(InputError, match=words):
        Diffusion(**bad)

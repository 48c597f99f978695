"""Checkpoints: round trips to the bit, and every kind of damage told from every other."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.files import fingerprint
from jaxunlearn.training import devices
from jaxunlearn.training.checkpoints import Checkpointer
from jaxunlearn.types import InputError, TrainState


def make_state(value=0.0, width=3):
    """A small state of all kinds: types, shapes, a NamedTuple, an empty dictionary."""
    return TrainState(
        step=jnp.int32(7),
        params={"a": {"kernel": jnp.full((2, width), value) + jnp.arange(width)[None]}},
        model_state={},
        opt_state=(
            {"mask": jnp.array([True, False]), "half": jnp.array([1.5, -2.0], jnp.bfloat16)},
            (),
        ),
        key=jax.random.key_data(jax.random.key(3)),
    )


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one checkpoint; not to be written to."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    Checkpointer(folder).save(5, make_state(1.0), {"seconds": 2.5})
    return folder


@pytest.mark.parametrize("shapes_only", [True, False])
def test_round_trip(saved, shapes_only):
    target = jax.eval_shape(make_state) if shapes_only else make_state()
    tree, record = Checkpointer(saved).restore(target)
    assert_equal(tree, make_state(1.0))
    assert isinstance(tree, TrainState)
    assert record == {"seconds": 2.5, "fingerprint": fingerprint(make_state(1.0))}


def test_the_newest_two_are_kept(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new" / "folder")
    assert checkpointer.newest_step() is None
    assert not (tmp_path / "new").exists()  # asking makes nothing
    for step in (1, 5, 10):
        checkpointer.save(step, make_state(float(step)), {})
        assert checkpointer.newest_step() == step
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["10", "5"]
    assert_equal(checkpointer.restore(make_state())[0], make_state(10.0))
    shutil.rmtree(checkpointer.folder / "10")
    assert_equal(Checkpointer(checkpointer.folder).restore(make_state())[0], make_state(5.0))


def test_a_step_is_replaced(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    Checkpointer(folder).save(5, make_state(2.0), {})
    assert_equal(Checkpointer(folder).restore(make_state())[0], make_state(2.0))


def test_what_a_kill_leaves_behind_is_no_checkpoint(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    shutil.copytree(folder / "5", folder / "6.orbax-checkpoint-tmp")
    assert Checkpointer(folder).newest_step() == 5
    (folder / "5" / "contents.json").unlink()  # killed just before it was written
    assert_equal(Checkpointer(folder).restore(make_state())[0], make_state(1.0))


def test_reading_writes_nothing(saved, tmp_path, capfd):
    """So a run can be read where it cannot be written, and while another process writes it."""
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / "6.orbax-checkpoint-tmp").mkdir()

    def times():
        return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}

    before = times()
    assert Checkpointer(folder).newest_step() == 5
    Checkpointer(folder).restore(make_state())
    assert times() == before
    assert capfd.readouterr() == ("", "")


def test_one_device_and_several(saved):
    mesh = devices.make_mesh(4)
    target = devices.replicate(make_state(), mesh)
    tree, _ = Checkpointer(saved).restore(target)
    assert_equal(tree, make_state(1.0))
    assert tree.params["a"]["kernel"].sharding == target.params["a"]["kernel"].sharding


def files(folder):
    """The files of a checkpoint, but for the digests of all others."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in found if path.name != "contents.json"]


DAMAGE = {
    "delete": None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "more": lambda content: content + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_found_and_named(saved, tmp_path, damage):
    names = files(saved / "5")
    assert len(names) > 5
    for name in names:
        folder = tmp_path / "copy"
        shutil.copytree(saved, folder)
        path, spoil = folder / "5" / name, DAMAGE[damage]
        content = path.read_bytes()
        path.unlink()
        if spoil is not None:
            path.write_bytes(spoil(content))
        what = "is missing" if spoil is None else "was cut short or altered"
        if spoil is None or spoil(content) != content:
            with pytest.raises(InputError, match=f"step 5 .* damaged .*{name} {what}") as caught:
                Checkpointer(folder).restore(make_state())
            assert f"delete the folder {folder / '5'}" in str(caught.value)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with two checkpoints; not to be written to."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    for step in (5, 10):
        Checkpointer(folder).save(step, make_state(float(step)), {"step": step})
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["contents.json", "largest"])
def test_a_damaged_newest_checkpoint_is_passed_over(two, tmp_path, damage, name):
    """The run continues from the one before with a message, and the next save replaces it."""
    folder, said = tmp_path / "copy", []
    shutil.copytree(two, folder)
    largest = max(files(folder / "10"), key=lambda file: (folder / "10" / file).stat().st_size)
    path, spoil = folder / "10" / (largest if name == "largest" else name), DAMAGE[damage]
    content = path.read_bytes()
    path.unlink()
    if spoil is not None:
        path.write_bytes(spoil(content))
    checkpointer = Checkpointer(folder, said.append)
    tree, record = checkpointer.restore(make_state())
    if name == "contents.json" and damage in ("delete", "last byte", "more"):
        # The arrays are checked by their fingerprint too, and white space at the end is no damage.
        assert record["step"] == 10 and not said
        return
    assert_equal(tree, make_state(5.0))
    assert record["step"] == 5
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith(f"the checkpoint of step 10 in {folder} is damaged (")
    assert said[0].endswith("; the run continues from step 5.")
    assert path.name in said[0]
    checkpointer.save(7, make_state(7.0), {"step": 7})
    assert checkpointer.steps() == [5, 7]
    assert checkpointer.restore(make_state())[1]["step"] == 7 and len(said) == 1


def test_none_is_sound(two, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two, folder)
    for step in ("5", "10"):
        (folder / step / "contents.json").write_text("{")
    with pytest.raises(InputError, match="step 10 .* and so are all others; delete the folder"):
        Checkpointer(folder).restore(make_state())


def test_what_goes_with_a_checkpoint_counts_too(two):
    said = []
    tree, _ = Checkpointer(two, said.append).restore(
        make_state(), lambda record: "its metrics are gone" if record["step"] == 10 else None
    )
    assert_equal(tree, make_state(5.0))
    assert "(its metrics are gone); the run continues from step 5" in said[0]


def test_another_model_is_no_damage(two, tmp_path):
    """Nothing is passed over for it: the older ones are of that model too."""
    said = []
    with pytest.raises(InputError, match="another model"):
        Checkpointer(two, said.append).restore(make_state(width=4))
    assert not said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record/metadata", b"{}"),
        ("record/metadata", b'{"fingerprint": "0"}'),
        ("record/metadata", b"{"),
        ("tree/_METADATA", b"{}"),
        ("tree/_METADATA", b""),
    ],
)
def test_damage_is_found_without_the_digests_too(saved, tmp_path, name, content):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    (folder / "5" / "contents.json").unlink()
    (folder / "5" / name).write_bytes(content)
    with pytest.raises(InputError, match="step 5 .* damaged"):
        Checkpointer(folder).restore(make_state())


def test_other_arrays_of_the_same_shapes_are_found(saved, tmp_path):
    """The fingerprint is of the arrays, whatever files they lie in."""
    folder, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(saved, folder)
    Checkpointer(other).save(5, make_state(2.0), {})
    shutil.rmtree(folder / "5" / "tree")
    shutil.copytree(other / "5" / "tree", folder / "5" / "tree")
    (folder / "5" / "contents.json").unlink()
    with pytest.raises(InputError, match="its arrays do not match their fingerprint"):
        Checkpointer(folder).restore(make_state())


def test_another_model(saved):
    kinds = r"params/a/kernel is float32\[2, 3\] there, but must be float32\[2, 4\]"
    with pytest.raises(InputError, match=f"another model or method: {kinds}"):
        Checkpointer(saved).restore(make_state(width=4))
    more = make_state()._replace(model_state={"mean": jnp.zeros(2)})
    with pytest.raises(
        InputError, match=r"model_state/mean is absent there, but must be float32\[2\]"
    ):
        Checkpointer(saved).restore(more)
    with pytest.raises(InputError, match=r"step is int32\[\] there, but must be float32\[\]"):
        Checkpointer(saved).restore(make_state()._replace(step=jnp.float32(0)))


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="holds no complete checkpoint; run the stage"):
        Checkpointer(tmp_path / "none").restore(make_state())
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written .* choose a folder"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, make_state(), {})


@pytest.mark.parametrize("name", ["lr=[0.1]", "a\\b", "gs:", "[!a]"])
def test_a_folder_whose_name_is_taken_for_something_else_is_refused(name, tmp_path):
    """Orbax would write there what it does not find again."""
    with pytest.raises(InputError, match=r"must not contain \[\.\.\.\], a backslash"):
        Checkpointer(tmp_path / name / "checkpoints")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a[b", "a]b", "a*b", "{}", "a:b", "%41", "gs:x"])
def test_a_folder_of_any_other_name_is_taken(name, tmp_path):
    checkpointer = Checkpointer(tmp_path / name)
    checkpointer.save(1, {"a": jnp.arange(3)}, {})
    assert checkpointer.restore({"a": jnp.zeros(3, jnp.int32)})[0]["a"].tolist() == [0, 1, 2]


def test_the_fingerprint_sees_every_difference():
    base = {"w": np.arange(4, dtype=np.float32)}
    others = [
        {"v": base["w"]},
        {"w": base["w"].reshape(2, 2)},
        {"w": base["w"].astype(np.float64)},
        {"w": base["w"].view(np.int32)},
        {"w": np.nextafter(base["w"], np.float32(9))},
        {"w": -base["w"]},
        {"w": {"w": base["w"]}},
    ]
    found = {fingerprint(tree) for tree in (base, *others)}
    assert len(found) == 1 + len(others)
    assert fingerprint({"w": jnp.asarray(base["w"])}) == fingerprint(base)
    fortran = {"w": np.asfortranarray(base["w"].reshape(2, 2))}
    assert fingerprint(fortran) == fingerprint({"w": base["w"].reshape(2, 2)})


def test_the_record_is_json_that_others_can_read(saved):
    record = json.loads((saved / "5" / "record" / "metadata").read_text())
    assert record["seconds"] == 2.5

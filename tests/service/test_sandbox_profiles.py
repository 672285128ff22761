"""What the profiles hold, in real jails, and what becomes of descriptions that are wrong."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from shutil import which

import grpc.aio
import pytest

from services.sandbox import profiles
from services.sandbox.core.lifecycle import Outcome, Verdict
from services.sandbox.profiles import Profile
from tests.service.sandbox_app import (
    ORDINARY_UID,
    Sandbox,
    Service,
    built_root,
    descendants,
    reason,
    serving,
)
from tests.service.sandbox_engine import engine, run
from tests.service.sandbox_users import AS_ROOT

AS_USER = pytest.param(
    ORDINARY_UID, id="as-a-user", marks=pytest.mark.skipif(os.geteuid() != 0, reason="already one")
)
AS_WE_ARE = pytest.param(None, id="as-we-are", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root"))


@pytest.fixture(scope="module")
def root() -> Path:
    """With one profile that is in order, and some that are not."""
    folder = built_root("python-data").parent
    describe(folder / "malformed", "{")
    describe(folder / "surprising", json.dumps({"name": "surprising", "packages": "numpy"}))
    return folder


def describe(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / profiles.FILE).write_text(text)
    (folder / "stamp").write_text("")
    for path in (folder, folder / profiles.FILE):
        path.chmod(0o755)


@pytest.fixture(scope="module", params=[AS_ROOT, AS_USER, AS_WE_ARE])
def service(root: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    settings = {
        "OLLAMESH_SANDBOX_PROFILES": "python-data,malformed,surprising",
        "OLLAMESH_SANDBOX_WARM_COUNT": "1",
    }
    with serving(root / "python-data", uid=request.param, settings=settings) as running:
        yield running


@pytest.fixture
async def sandbox(service: Service) -> AsyncIterator[Sandbox]:
    async with service.ready() as client:
        yield client


async def test_packages_are_imported_before_a_program_is_there(sandbox: Sandbox) -> None:
    code = """
import sys, os
print({"numpy", "pandas", "matplotlib.pyplot"} <= set(sys.modules), len(os.listdir("/proc/self/task")))
import numpy, pandas
print(pandas.DataFrame({"a": numpy.arange(4)}).a.sum())
"""
    ran = await sandbox.run(code, profile="python-data")
    assert ran.stdout == "True 1\n6\n", ran.stderr


async def test_a_plot_can_be_drawn_and_kept(sandbox: Sandbox) -> None:
    """Without a warning about folders, and without a look at every font."""
    code = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3]); plt.title("$x^2$"); plt.savefig("plot.png"); plt.savefig("plot.svg"); plt.close()
print(open("plot.png", "rb").read(4))
"""
    ran = await sandbox.run(code, profile="python-data")
    assert (ran.stdout, ran.stderr) == ("b'\\x89PNG'\n", "")


@pytest.mark.parametrize(
    "code",
    [
        "import scipy.stats; print(round(scipy.stats.norm.cdf(0), 1))",
        "import sklearn.linear_model as m; print(round(float(m.LinearRegression().fit([[1], [2]], [0.25, 0.5]).coef_[0]) * 2, 1))",
        "import sympy; print(float(sympy.Rational(1, 2)))",
        "import openpyxl, io, pandas; f = io.BytesIO(); pandas.DataFrame({'a': [0.5]}).to_excel(f); print(pandas.read_excel(f).a[0])",
        "import pandas, io; print(pandas.read_html(io.StringIO('<table><tr><th>a<tr><td>0.5</table>'))[0].a[0])",
        "import PIL.Image; print(PIL.Image.new('RGB', (8, 4)).height / 8)",
        "import yaml, bs4, tabulate; print(yaml.safe_load('0.5'))",
    ],
)
async def test_all_of_the_packages_work(sandbox: Sandbox, code: str) -> None:
    ran = await sandbox.run(code, profile="python-data")
    assert ran.stdout == "0.5\n", ran.stderr


async def test_jails_draw_different_lots(sandbox: Sandbox) -> None:
    code = "import numpy, random, uuid; print(numpy.random.rand(), numpy.random.default_rng().random(), random.random(), uuid.uuid4())"
    drawn = [(await sandbox.run(code, profile="python-data")).stdout.split() for _ in range(3)]
    assert all(len(set(column)) == 3 for column in zip(*drawn, strict=True))


async def test_what_is_in_it_is_told(sandbox: Sandbox) -> None:
    (told,) = (await sandbox.capabilities()).profiles
    assert told.name == "python-data"
    assert told.runtime.startswith("python 3.")
    assert told.keeps_variables
    assert {package.split()[0] for package in told.packages} >= {"numpy", "pandas", "matplotlib", "scipy"}
    assert all(len(package.split()) == 2 for package in told.packages)


async def test_what_is_wrong_with_the_others_is_told(sandbox: Sandbox) -> None:
    lost = {
        profile.profile: profile.problem for profile in (await sandbox.capabilities()).unavailable_profiles
    }
    assert set(lost) == {"malformed", "surprising"}
    assert all(problem.startswith("profile.json describes no profile: ") for problem in lost.values())


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        ("malformed", "profile.json describes no profile: Input data was truncated"),
        ("surprising", "profile.json describes no profile: Expected `array`, got `str` - at `$.packages`"),
    ],
)
async def test_a_wrong_description_is_named_and_harms_no_other(
    sandbox: Sandbox, profile: str, problem: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await sandbox.run("print(1)", profile=profile)
    assert reason(refused.value).reason == "SANDBOX_UNAVAILABLE"
    assert reason(refused.value).metadata["problem"] == problem
    assert (await sandbox.run("print(1)", profile="python-data")).stdout == "1\n"


async def test_of_all_that_is_there_only_the_usual_one_starts_at_once(root: Path) -> None:
    built_root()
    with serving(root / "python", settings={"OLLAMESH_SANDBOX_PROFILES": "all"}) as service:
        async with service.ready() as sandbox:
            told = {profile.name for profile in (await sandbox.capabilities()).profiles}
            assert {"python", "python-data"} <= told
            assert not told & {"malformed", "surprising"}
            before = len(descendants(service.process.pid))
            ran = await sandbox.run("import sys; print('pandas' in sys.modules)", profile="python-data")
            assert ran.stdout == "True\n"
            assert len(descendants(service.process.pid)) > before


@pytest.mark.skipif(which("bash") is None, reason="this machine has no bash")
async def test_a_shell_finds_its_tools() -> None:
    code = """
seq 5 | awk '{sum += $1} END {print sum}'
printf 'b\\na\\n' | sort | xargs echo
awk 'BEGIN {system("echo by sh")}'
find . -name '*.sh' | sed 's/.*\\///'
"""
    async with engine(folder=built_root("bash")) as jails:
        assert await run(jails, code) == (Verdict(Outcome.OK), "15\na b\nby sh\nmain.sh\n")


async def test_node_runs_with_its_threads() -> None:
    """The package that tests install brings one where the machine has none."""
    code = """
const {Worker} = require("worker_threads");
new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", {eval: true}).on("message", console.log);
"""
    async with engine(folder=built_root("node")) as jails:
        assert jails.profile.runtime.startswith("node ")
        assert await run(jails, code) == (Verdict(Outcome.OK), "42\n")


@pytest.fixture
def hopeless() -> Path:
    folder = built_root().with_name("hopeless")
    folder.mkdir()
    profiles.write(folder, Profile(name="hopeless", preimported=("nowhere",)))
    for name in ("root", "kit", "stamp"):
        (folder / name).symlink_to(built_root() / name)
    return folder


async def test_what_a_zygote_cannot_import_is_named(hopeless: Path) -> None:
    async with engine(folder=hopeless) as jails:
        assert jails.problem == "nowhere cannot be imported: ModuleNotFoundError"


def test_all_means_what_is_there_and_the_usual_one_first(tmp_path: Path) -> None:
    for name in ("bash", "python", "mine", ".half-built"):
        (tmp_path / name).mkdir()
        (tmp_path / name / profiles.FILE).write_text("{")
    (tmp_path / "no-profile").mkdir()
    assert profiles.names(tmp_path, ["all"]) == ("python", "bash", "mine")
    assert profiles.names(tmp_path, ["bash", "bash", "absent"]) == ("bash", "absent")
    assert profiles.names(tmp_path / "nowhere", ["all"]) == ("python",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "other"},
        {"name": "it", "surprise": 1},
        {"name": "it", "environment": {"A=B": "c"}},
        {"name": "it", "environment": {"A": "\0"}},
        {"name": "it", "command": [1]},
        {"name": "it", "file_name": "../main.py"},
        {"name": "it", "file_name": ""},
        [],
    ],
)
def test_nonsense_is_no_profile(tmp_path: Path, wrong: object) -> None:
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / profiles.FILE).write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"."):
        profiles.read(folder)

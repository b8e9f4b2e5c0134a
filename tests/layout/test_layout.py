"""The house: which way imports run, what the packages hold, how long files are, what is documented."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_DIR = PROJECT["tool"]["setuptools"]["package-dir"]
EXTENSIONS = {one["name"]: one["sources"] for one in PROJECT["tool"]["setuptools"]["ext-modules"]}
LAYERS = {"core": 0, "datamodules": 1, "apps": 2}
SOURCES = sorted(path for folder in LAYERS for path in (ROOT / folder).rglob("*.py"))
ALL_CODE = SOURCES + sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts" / "bench").glob("*.py")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
            assert node.level == 0, f"relative import in line {node.lineno}"
        elif isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path):
    layer = LAYERS[path.relative_to(ROOT).parts[0]]
    for module, line in imports(ast.parse(path.read_text())):
        top, _, rest = module.partition(".")
        assert top not in LAYERS, f"{name_of(path)}:{line} imports {module}; write wavecast.{module}"
        assert not module.startswith("wavecast.apps.wavecast"), (
            f"{name_of(path)}:{line}: a second copy of the front door"
        )
        if top == "wavecast" and layer < 2:
            found = LAYERS.get(rest.split(".")[0], 2)
            assert found <= layer, f"{name_of(path)}:{line} imports {module} from a higher layer"


@pytest.mark.parametrize("path", sorted((ROOT / "apps" / "wavecast").glob("*.py")), ids=name_of)
def test_the_front_door_imports_apps_only_when_they_run(path):
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    heavy = ("torch", "pytorch_lightning", "numpy", "matplotlib", "scipy", "huggingface_hub", "wavecast.apps")
    for module, line in imports(ast.Module(top, [])):
        if path.name in ("lightning.py", "optimization.py"):  # imported by training alone, when it runs
            continue
        assert not module.startswith(heavy), f"{name_of(path)}:{line} imports {module} at once"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from wavecast.main import main; main(['--help']); "
        "print(sorted({'torch', 'numpy', 'pytorch_lightning', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout[-200:]
    assert done.stdout.startswith("usage: wavecast COMMAND")


@pytest.mark.parametrize("path", ALL_CODE, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_is_documented(path):
    tree = ast.parse(path.read_text())
    if path.read_text().strip():
        assert ast.get_docstring(tree), f"{name_of(path)} says nothing of itself"
    bare = []

    def visit(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                overloaded = "overload" in [ast.unparse(one) for one in child.decorator_list]
                hidden = child.name.startswith("_") or overloaded
                if not hidden and not ast.get_docstring(child):
                    bare.append(f"{inside}{child.name}")
                if isinstance(child, ast.ClassDef) and not hidden:
                    visit(child, f"{child.name}.")

    visit(tree, "")
    assert not bare, f"{name_of(path)}: no docstring on {', '.join(bare)}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_asserts_and_no_silent_excepts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}: an assert for a user's mistake"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name_of(path)}:{node.lineno}: a bare except"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"{name_of(path)}:{node.lineno}: torch.load may run code"


def packaged_files() -> dict[str, Path]:
    """Map every file that belongs into the wheel to its place in the tree."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    files = {}
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        name, rest = package, []
        while name not in PACKAGE_DIR:
            name, _, last = name.rpartition(".")
            rest.insert(0, last)
        folder = ROOT.joinpath(PACKAGE_DIR[name], *rest)
        patterns = ["*.py", *data.get(package, [])]
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            files[f"{package.replace('.', '/')}/{path.name}"] = path
    return files


def test_every_package_is_listed():
    listed = set(packaged_files().values())
    missing = [name_of(path) for path in SOURCES if path not in listed]
    models = [path for path in (ROOT / "checkpoints").iterdir() if path.is_file() and path.suffix != ".md"]
    missing += [name_of(path) for path in models if path not in listed]
    missing += [name_of(path) for path in (ROOT / "scripts" / "recipes").glob("*.yaml") if path not in listed]
    assert not missing, f"not in the wheel: {missing}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build wheel and sdist from a copy of what belongs to them, offline."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("core", "datamodules", "apps", "checkpoints", "scripts/recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    for kind in ("sdist", "wheel"):
        build(kind, copy, out)
    return out


def build(kind: str, tree: Path, out: Path, **environment: str) -> None:
    """Build a wheel or an sdist from a tree."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    words = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(words, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def is_of_an_extension(name: str) -> bool:
    """Tell whether a file of a wheel is compiled, or the source of what is."""
    return name.partition(".")[0].replace("/", ".") in EXTENSIONS and not name.endswith(".py")


def test_the_wheel_equals_the_tree(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        inside = {name: archive.read(name) for name in names if not is_of_an_extension(name)}
    expected = {name: path.read_bytes() for name, path in packaged_files().items()}
    assert sorted(inside) == sorted(expected)
    assert [name for name in expected if inside[name] != expected[name]] == []


def test_the_sdist_holds_the_tree(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = [name_of(path) for path in packaged_files().values()]
    wanted += [source for sources in EXTENSIONS.values() for source in sources]
    assert not {*wanted} - inside, f"not in the sdist: {sorted({*wanted} - inside)}"


def compiled(wheel: Path) -> list[str]:
    """List the extensions that a wheel holds compiled."""
    suffixes = (".so", ".pyd")
    with zipfile.ZipFile(wheel) as archive:
        names = [name.partition(".")[0].replace("/", ".") for name in archive.namelist() if name.endswith(suffixes)]
    return sorted(names)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="needs Python's headers")
def test_the_wheel_holds_what_is_compiled(built):
    (wheel,) = built.glob("*.whl")
    assert compiled(wheel) == sorted(EXTENSIONS)


def test_the_sdist_installs_without_a_compiler(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    build("wheel", tree, tmp_path, CC="false")
    (wheel,) = tmp_path.glob("*.whl")
    assert compiled(wheel) == []


def test_the_type_checkers_links_cover_every_package():
    links = ROOT / "scripts" / "typing" / "wavecast"
    modules = {path.name for path in (ROOT / "apps" / "wavecast").glob("*.py")}
    assert modules <= {path.name for path in links.iterdir()}, "link new front-door modules in scripts/typing/wavecast"
    assert all(path.exists() for path in links.rglob("*")), "a link leads nowhere"

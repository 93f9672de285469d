"""What the site has beside these files: README as its first page, and a reference of every option, from conf/."""

import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from mkdocs.structure.files import File, Files

from anomalib_lite import cli
from anomalib_lite.settings import conf_dir
from anomalib_lite.settings.fields import explain

NO_GROUPS = ("hydra", "preset", "experiment")  # they set options of others
ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Adds index.md and configuration.md."""
    for name, text in (("index.md", _first_page()), ("configuration.md", reference())):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files outside docs/ become plain text: the site does not hold them."""
    return re.sub(r"\[([^\]]+)\]\(\.\./(?!docs)[^)]*\)", r"\1", markdown)


def reference() -> str:
    """Each verb's options, then those of each choice of each group, as --help shows them."""
    parts = ["# Configuration", "", "Made from `conf/`; each value is the default, and a comment says what it means."]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for verb in cli.VERBS:
            parts += ["", f"## {verb}", "", "```yaml", explain(compose(verb)), "```"]
        groups = sorted(path for path in conf_dir().iterdir() if path.is_dir() and path.name not in NO_GROUPS)
        for group in groups:
            parts += ["", f"## {group}=..."]
            for file in sorted(group.glob("*.yaml")):
                first = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
                verb = "segment" if group.name == "panels" else "train"
                shown = explain(compose(verb, [f"{group.name}={file.stem}"])[group.name])
                parts += ["", f"### {group.name}={file.stem}", "", first, "", "```yaml", shown, "```"]
    return "\n".join(parts) + "\n"


def _first_page() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(
        r"\]\(docs/([^)]*)\)", lambda m: f"]({m[1]})" if m[1].endswith((".md", ".jpg", ".png")) else "]", text
    )

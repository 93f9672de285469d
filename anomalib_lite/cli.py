"""The command line: `anomalib-lite VERB [Hydra overrides]`."""

import difflib
import importlib
import os
import sys

VERBS = {
    "demo": "render photographs of panels, and make labelled crops of them to try everything on",
    "segment": "find the products in photographs of panels, and cut aligned crops",
    "annotate": "label crops as OK or NOK in a local web page",
    "review": "find NOK images in a folder of OK images",
    "generate": "make new OK images from OK images, and measure their quality",
    "train": "learn from OK images, set the threshold, evaluate the test images, write a run folder",
    "sweep": "run many configurations from a sweep file: grid, random or bayes, with hyperband",
    "evaluate": "evaluate a trained run on the test images of a data set",
    "predict": "compute scores, anomaly maps and overlays of any images with a trained run",
    "serve": "predict images over HTTP with a trained run; includes a page to try it",
    "compare": "compare finished runs: means, effects, and whether the seeds are enough to conclude anything",
    "weights": "download a backbone's pretrained weights ahead of time, or list them",
    "export": "write a trained run as one ONNX, OpenVINO or torch file, and check it against the run",
    "submit": "write the files for the evaluation server of MVTec AD 2",
}

# By default glibc returns large blocks to the system and faults them in again at every batch. Keeping them makes
# feature extraction on a CPU 2.5 to 4 times faster. glibc reads these variables only when a process starts.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
MALLOC_SWITCH = "ANOMALIB_LITE_MALLOC"


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from anomalib_lite import __version__

        print(__version__)
        return
    if not sys.stderr.isatty():  # else a log file would contain every update of every progress bar
        os.environ.setdefault("TQDM_DISABLE", "1")
    verb = arguments[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.exit(f"anomalib-lite: there is no verb '{verb}'.{hint}\n\n{_overview()}")
    _keep_memory()
    # Hydra's parser accepts flags before or after the overrides, but not between them
    rest = sorted(arguments[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv = [f"anomalib-lite {verb}", *rest]
    try:
        importlib.import_module(f"anomalib_lite.jobs.{verb}").main()
        sys.stdout.flush()
    except BrokenPipeError:  # e.g. from `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> str:
    verbs = "\n".join(f"  {name:9} {text}" for name, text in VERBS.items())
    return (
        "anomalib-lite: find out which anomaly detector works for a product, prove it, and inspect with it.\n\n"
        f"usage: anomalib-lite VERB [key=value ...] [-m] [--help]\n\n{verbs}\n\n"
        "examples:\n"
        "  anomalib-lite train                          on rendered images of the built-in product\n"
        "  anomalib-lite train data=folder data.ok=ok data.nok=nok\n"
        "  anomalib-lite train -m backbone=resnet18,efficientnet_lite0 seed=0,1,2\n"
        "  anomalib-lite predict run=runs/default/... images=photos/\n\n"
        "Each verb is a Hydra app: `anomalib-lite train --help` lists its groups and options."
    )


def _keep_memory() -> None:
    """Restarts this process with the malloc settings; ANOMALIB_LITE_MALLOC=0 turns this off."""
    if sys.platform != "linux" or os.environ.get(MALLOC_SWITCH) == "0" or any(k in os.environ for k in MALLOC):
        return
    os.environ.update(MALLOC)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same command


if __name__ == "__main__":
    main()

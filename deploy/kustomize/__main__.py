"""`python -m deploy.kustomize`: write base and overlays anew from the chart, after it or its values have changed."""

import shutil

from deploy.kustomize.generate import FOLDER, files


def main() -> None:
    for name in ("base", "overlays"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()

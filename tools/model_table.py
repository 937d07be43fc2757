"""Makes the table of models in wbcnets/models/README.md: parameters and MACs, with timm's peers."""

import argparse
import sys
from pathlib import Path

import wbcnets
from wbcnets.models.size import measure_registered

DOCUMENT = Path(__file__).resolve().parents[1] / "wbcnets" / "models" / "README.md"
START, END = "<!-- model table: start -->", "<!-- model table: end -->"
PEERS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "resnext50_32x4d")


def model_table() -> str:
    """Returns the Markdown table of every registered model and of timm's peers."""
    rows = ["| model | parameters (M) | GMACs at 224 |", "| --- | ---: | ---: |"]
    for name in (*wbcnets.list_models(), *PEERS):
        size = measure_registered(name)
        label = f"timm's `{name}`" if name in PEERS else f"`{name}`"
        rows.append(f"| {label} | {size.parameters / 1e6:.1f} | {size.macs / 1e9:.1f} |")
    return "\n".join(rows)


def replace_table(document: str, table: str) -> str:
    """Returns the document with another table between the two marks."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table}\n{END}{after}"


def main() -> None:
    """Prints the table, writes it into the document, or compares it with the document's."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Counts run on the meta device with 1,000 classes: no memory, no download.",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help=f"write it into {DOCUMENT.name}")
    choice.add_argument(
        "--check", action="store_true", help=f"exit with 1 if the table in {DOCUMENT.name} differs"
    )
    arguments = parser.parse_args()
    table = model_table()
    if arguments.write:
        DOCUMENT.write_text(replace_table(DOCUMENT.read_text(), table))
    elif arguments.check:
        if table not in DOCUMENT.read_text():
            sys.exit(f"{DOCUMENT} is out of date; run: python tools/model_table.py --write")
    else:
        print(table)


if __name__ == "__main__":
    main()

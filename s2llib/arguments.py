"""The arguments of `./run_all.sh`, which answers --help before anything is installed: only the standard library is imported here."""

import argparse
import os

__all__ = ["parser"]


def parser(called: str = "./run_all.sh") -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog=called, description="Run the study and write its tables and figures to figures/PROFILE/.")
    p.add_argument("--profile", default=os.environ.get("S2L_PROFILE") or "lab", help="a file of params/ without its ending (default: lab)")
    p.add_argument("--only", action="append", metavar="NN", help="run this notebook alone, such as 03 (may be repeated; profile audit: 09)")
    p.add_argument("--from", dest="start", metavar="NN", help="start at this notebook")
    p.add_argument("--fresh", action="store_true", help="make everything again, finished work too")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter, such as sp.images=96 (may be repeated)"
    )
    p.add_argument(
        "--executor", metavar="WHERE", help="compute cells on a Dask cluster: `local`, or a scheduler's address such as tcp://10.0.0.1:8786"
    )
    p.add_argument(
        "--tables", action="store_true", help="make tables and plots again from figures/PROFILE/scores/, without any model or image"
    )
    p.add_argument("--store", action="store_true", help="for maintainers: outputs into notebooks/, gallery into figures/")
    p.add_argument("--check", action="store_true", help="run every check, print what was read and an estimate; compute nothing")
    p.add_argument("--test", action="store_true", help="run the tests and every notebook on the tiny profile instead")
    return p


if __name__ == "__main__":
    parser().parse_args()

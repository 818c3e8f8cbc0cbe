"""``python -m voicestyle``."""

from voicestyle.cli import main

main(prog_name="voicestyle")

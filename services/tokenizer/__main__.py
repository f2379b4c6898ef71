"""`python -m quire.services.tokenizer`."""

from .process import main

main()

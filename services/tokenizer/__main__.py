"""`python -m quire.services.tokenizer`."""

from .service import main

main()

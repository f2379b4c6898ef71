"""`python -m quire.services.engine`."""

from .service import main

main()

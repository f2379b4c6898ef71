"""`python -m quire.services.frontend`: one frontend process."""

from .service import main

if __name__ == "__main__":
    main()

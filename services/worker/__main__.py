"""The worker as a process: python -m quire.services.worker --model PATH."""

from .service import main

if __name__ == "__main__":
    main()

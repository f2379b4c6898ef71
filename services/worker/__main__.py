"""The worker as a process: python -m quire.services.worker --model PATH."""

from .environment import settle

if __name__ == "__main__":
    settle()
    from .service import main

    main()

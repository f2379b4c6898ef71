"""Everything that is measured on a GPU, section by section; started by bench/gpu.sh. See bench/README.md."""

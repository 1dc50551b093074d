"""`python -m magdi_ray.cli`: the same as `magdi`."""

from magdi_ray.cli import main

if __name__ == "__main__":
    main()

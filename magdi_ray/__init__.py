"""magdi_ray: debates between language models, distilled into one small student, on Ray.

One way through the house: tasks -> agents -> debate -> graph -> distill -> evaluate -> serving.
Importing a package never starts Ray, loads weights or touches the disk.
"""

__version__ = "0.1.0"

"""What a report gathers from run directories, a noun a module; `magdi_ray.reporting` puts it together."""

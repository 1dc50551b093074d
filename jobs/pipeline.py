"""A Ray job: a whole run, from questions to the report. What is finished already is not repeated.

    ray job submit --working-dir . -- python jobs/pipeline.py configs/tiny.yaml --out /shared/runs/tiny

Options are those of `magdi run`. Exit codes: 0 done; 2 the configuration or the run cannot be used;
130 stopped (`ray job stop`, a preempted machine): submitted again, the job goes on where it was.
"""

from magdi_ray.cli.job import run_job

if __name__ == "__main__":
    run_job("run")

"""The training engine, which knows no task: state, step, loop, mesh, checkpoints, logs."""

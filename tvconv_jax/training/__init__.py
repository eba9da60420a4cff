"""Training that knows no task: state, step, loop, mesh, checkpoints, logs."""

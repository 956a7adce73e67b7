"""Commands about jobs: how one is doing, and what machines would make of one."""

"""Learning from rewards: PPO, and what RLOO and GRPO share with it."""

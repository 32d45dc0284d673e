"""Categories that must stay private: the policy that keeps them out, and what holds texts and tiles to it.

Nothing is imported here, so that reading a policy loads no torch.
"""

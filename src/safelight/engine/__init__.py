"""What makes a run fit its machine without changing its result: how much it will take, where its parts are, which models stay."""

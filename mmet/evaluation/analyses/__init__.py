"""What is found out beside the metrics. An analysis is one file: what it computes, shows and draws."""

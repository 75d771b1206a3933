"""The coordinator and the hubs: rounds, aggregation, stored versions, releases."""

"""The messages, topics and limits that cross the broker: the one home of wire types."""

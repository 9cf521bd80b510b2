"""Ways to answer a problem, with one interface: a decoder takes questions and yields answers with their costs, as they end."""

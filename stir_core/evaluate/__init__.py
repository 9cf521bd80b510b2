"""Is it true? Paired comparisons of ways to answer, with intervals that mean what they say."""

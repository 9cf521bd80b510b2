"""Ways to answer a problem, behind one interface: a decoder takes questions and gives settled-cost answers as they end."""

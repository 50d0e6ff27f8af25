# The rounds of a measurement that takes turns: a line of numbers for each.
def rounds: split("\n") | map(select(. != "") | split(" ") | map(tonumber));

# The median of the rounds' ratios, with quartiles.
def ratio(of): map(of) | sort | def at(share): .[(length - 1) * share | round] * 1000 | round / 1000;
  "× \(at(0.5)) (quartiles \(at(0.25)) to \(at(0.75)), \(length) rounds)";

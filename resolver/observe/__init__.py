"""What people see of a running resolver: counters, histograms, the query log and dnstap. Nothing here decides anything.

`counters` says how to add a counter. The values live where things happen; `resolver.daemon` collects and shows them.
`observer` records queries and replies for the query log and dnstap; it is None where both are off.
"""

from resolver.observe.clients import ClientCounters, result_of
from resolver.observe.counters import LabelledCounter
from resolver.observe.histogram import Histogram, SampledHistogram, UpstreamLatency

__all__ = ["ClientCounters", "Histogram", "LabelledCounter", "SampledHistogram", "UpstreamLatency", "result_of"]

"""The sources that ship with the package, by the name that `spct data` takes."""

from __future__ import annotations

from spct_plugin.data.sources import Source, benchmarks, generic, helpsteer, verifiable
from spct_plugin.data.sources.ultrafeedback import ultrafeedback

SOURCES = {
    "pairs": Source(generic.chosen_rejected),
    "ranked": Source(generic.ranked),
    "helpsteer2": Source(helpsteer.helpsteer2),
    "helpsteer3": Source(helpsteer.helpsteer3),
    "ultrafeedback": Source(ultrafeedback),
    "ultrafeedback-binarized": Source(generic.chosen_rejected),
    "offsetbias": Source(benchmarks.offsetbias),
    "skywork": Source(generic.chosen_rejected),
    "math": Source(verifiable.math),
    "verifiable": Source(verifiable.verifiable),
    "judgebench": Source(benchmarks.judgebench),
    "llmbar": Source(benchmarks.llmbar),
    "rmbench": Source(benchmarks.rmbench),
    "hh-rlhf": Source(generic.hh_rlhf),
    "rewardmath": Source(benchmarks.rewardmath, group="problem_id"),
}

"""report.py - what bench/run writes: for each figure a JSON file, a CSV and a chart; the
summary; and one page that holds all of it.

A figure is a dict: name, title, text (what it shows), rows (dicts with the same keys),
numbers (for the summary), problems ({what: why}), and 'draw', which gets the chart's
axes and the rows.
"""
import base64
import csv
import html
import json
import os

from machine import BUILD, IDLE_LOAD, OUT, STORES

os.environ["MPLCONFIGDIR"] = os.path.join(BUILD, "matplotlib")	# Not into the user's home.
COLOR = {"embedded": "#9aa5b1", "remote": "#2f6db5"}

# What, its number, comparison, target (None: it is only reported), unit, the paper's.
TARGETS = (
	("store: lookups, 100 keys a frame, 4 in flight", "store_read_mops_100",
	 ">=", 20, "M/s", "4.7"),
	("store: writes, the same", "store_write_mops_100", ">=", 15, "M/s", "0.7"),
	("store: lookups, against MGET", "store_vs_mget", ">=", 10, "x", ""),
	("store: writes, against MSET", "store_vs_mset", ">=", 10, "x", ""),
	("store: lookups, against memcached", "store_vs_memcached", ">=", 8, "x", ""),
	("the same over TCP", "store_tcp_read_mops_100", "", None, "M/s", ""),
	("lookups of what is not there, against there", "store_miss_vs_hit", ">=", 1, "x", ""),
	("read of 1 record, median", "store_read1_us_p50", "<=", 8, "us", "6"),
	("read of 100 records, median", "store_read100_us_p50", "<=", 12, "us", "51"),
	("firewall, 64 bytes, on the store", "remote_mpps_64", ">=", 14.88, "Mpps", "4.6"),
	("the same, against embedded", "remote_vs_embedded_64", ">=", 0.7, "x", ""),
	("128 bytes and more, against 10 GbE", "remote_vs_line_rate_128",
	 ">=", 1, "x", "converges"),
	("NAT against LB, 64 bytes", "nat_vs_lb_64", ">=", 0.9, "x", "far slower"),
	("flows of 100 packets against 10,000", "short_vs_long_flows",
	 ">=", 0.85, "x", "far slower"),
	("the same of the NAT", "nat_short_vs_long_flows", "", None, "x", ""),
	("the same of the LB", "lb_short_vs_long_flows", "", None, "x", ""),
	("new connections, opened and closed", "connections_kps", ">=", 500, "k/s", ""),
	("the same of the NAT", "nat_connections_kps", "", None, "k/s", ""),
	("the same of the LB", "lb_connections_kps", "", None, "k/s", ""),
	("NAT against Linux's, over veths", "nat_vs_nftables", "", None, "x", ""),
	("reassembly: a write per packet", "reassembly_remote_mpps_64",
	 ">=", 5, "Mpps", "0.7"),
	("IPS: a write per packet, and matching", "ips_remote_mpps_64",
	 ">=", 5, "Mpps", "0.7"),
	("added time at half load, median", "added_us_p50", "<=", 20, "us", "100"),
	("added time at half load, p95", "added_us_p95", "<=", 50, "us", "300"),
	("time in the instance, p99.9", "remote_us_p999", "", None, "us", ""),
	("kill -9 to redirected, median", "redirect_ms_p50", "", None, "ms", ""),
	("kill -9 to redirected, worst", "redirect_ms_max", "<=", 20, "ms", ""),
	("downloads failed, of 500 in each demo", "downloads_failed", "<=", 0, "", "0"),
	("time of the downloads, against no kill", "downloads_time_ratio",
	 "<=", 1.02, "x", ""),
	("store memory of a tracked connection", "bytes_per_connection",
	 "<=", 128, "bytes", ""),
	("the same of 10 million", "bytes_per_connection_10m", "<=", 128, "bytes", ""),
	("restart with 10 million connections", "restart_10m_s", "", None, "s", ""),
	("full synchronisation of 10 million", "sync_10m_s", "", None, "s", ""),
	("writes with one replica, commit: 1", "commit1_write_kops", "", None, "k/s", ""),
	("until a replica has 100 records, median", "commit1_write_us_p50", "", None, "us", ""),
	("reads beside commit: 1, against commit: 0", "reads_beside_commit_ratio",
	 "<=", 1.1, "x", ""),
	("lookups beside 1 M SYNs/s", "flood_reads_mops", "", None, "M/s", ""),
	("cost of an operation, 8 servers against 1", "shard_cost_ratio_8", "<=", 1.1, "x", ""),
	("scan of 1 M records: calls over 1 ms", "scan_calls_over_1ms", "<=", 0, "", ""),
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem;
	margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #dde3e9 }
td.n, th.n { text-align: right }
.reached { color: #17693a } .missed, .why { color: #ae2a19 } .none { color: #7a8794 }
.warning { background: #fdf1d7; padding: .6rem 1rem; border-left: 4px solid #d39a1c }
img { max-width: 100% } .wide { overflow-x: auto } summary { color: #52606d }
"""


# The charts.

def legend(ax):
	"""Above the chart, where nothing is in its way."""
	ax.legend(frameon=False, ncol=5, loc="lower center", bbox_to_anchor=(0.5, 1))


def short(value):
	if value is None:
		return ""
	return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def bars(ax, rows, x, y, series="store", unit=""):
	"""A group of bars for each x, and in it one for each series."""
	groups = list(dict.fromkeys(row[x] for row in rows))
	kinds = list(dict.fromkeys(row[series] for row in rows))
	width = 0.8 / len(kinds)
	for k, kind in enumerate(kinds):
		mine = {row[x]: row[y] for row in rows if row[series] == kind}
		places = [i + (k - (len(kinds) - 1) / 2) * width for i in range(len(groups))]
		values = [mine.get(group) for group in groups]
		drawn = ax.bar(places, [value or 0 for value in values], 0.95 * width,
			       label=kind, color=COLOR.get(kind))
		ax.bar_label(drawn, [short(value) for value in values], fontsize=8, padding=1)
	ax.set_xticks(range(len(groups)), [str(group) for group in groups])
	ax.margins(y=0.15)
	ax.set(xlabel=x.replace("_", " "), ylabel=unit)
	legend(ax)


def draw_stages(ax, rows):
	left = [0.0] * len(rows)
	for name in [name for name in rows[0] if name not in ("state", "total")]:
		widths = [row[name] for row in rows]
		drawn = ax.barh([row["state"] for row in rows], widths, left=left, label=name)
		ax.bar_label(drawn, fmt="%.0f", label_type="center", fontsize=8)
		left = [a + b for a, b in zip(left, widths)]
	ax.set_xlabel("TSC cycles per packet")
	legend(ax)


def draw_residence(ax, rows):
	names = {"p50": "median", "p95": "95 %", "p99": "99 %", "p999": "99.9 %"}
	bars(ax, [{"store": row["store"], "percentile": names[name], "us": row[name]}
		  for name in names for row in rows], "percentile", "us", unit="us")
	ax.set_yscale("log")


def draw_sizes(ax, rows):
	for store in STORES:
		mine = [row for row in rows if row["store"] == store]
		ax.plot([row["size"] for row in mine], [row["gbps"] for row in mine], "o-",
			color=COLOR[store], label=store)
	ax.axhline(10, color="#c33", linestyle="--", linewidth=1, label="10 GbE")
	ax.set_xscale("log", base=2)
	sizes = sorted({row["size"] for row in rows})
	ax.set_xticks(sizes, [str(size) for size in sizes])
	ax.set(xlabel="packet size in bytes", ylabel="Gbit/s on the line", ylim=(0, None))
	legend(ax)


def draw_memory(ax, rows):
	by = (("the module's count", "bytes"), ("the server's used_memory", "server_bytes"))
	bars(ax, [{"connections": row["flows"], "by": name, "bytes": row[column]}
		  for row in rows for name, column in by],
	     "connections", "bytes", "by", "bytes per connection")


def draw_failover(ax, rows):
	by = (("remote", "redirect_ms"), ("embedded", "redirect_ms_embedded"))
	bars(ax, [{"demo": row["demo"], "store": store, "ms": row[name]}
		  for row in rows for store, name in by], "demo", "ms", unit="ms")


# Files.

def write_figure(figure, conditions):
	path = os.path.join(OUT, figure["name"])
	parts = {key: figure[key] for key in ("title", "text", "numbers", "problems", "rows")}
	with open(path + ".json", "w") as f:
		json.dump({"figure": figure["name"], "conditions": conditions, **parts}, f, indent=1)
	if not figure["rows"]:
		return
	with open(path + ".csv", "w", newline="") as f:
		writer = csv.DictWriter(f, list(figure["rows"][0]))
		writer.writeheader()
		writer.writerows(figure["rows"])
	import matplotlib
	matplotlib.use("Agg")
	from matplotlib import pyplot
	chart, ax = pyplot.subplots(figsize=(8, 3.8), layout="constrained")
	ax.spines[["top", "right"]].set_visible(False)
	figure["draw"](ax, figure["rows"])
	chart.savefig(path + ".png", dpi=110)
	pyplot.close(chart)


def remove_old(names):
	"""So that nothing of an earlier run stands beside what this one finds."""
	files = [f"{name}.{kind}" for name in names for kind in ("json", "csv", "png")]
	for name in files + ["summary.json", "report.html"]:
		if os.path.exists(os.path.join(OUT, name)):
			os.unlink(os.path.join(OUT, name))


def warnings(conditions, summary):
	found = []
	if conditions["load_before"] > IDLE_LOAD:
		found.append("the machine was not idle before the run: load"
			     f" {conditions['load_before']}")
	if summary["cpu_share_min"] is not None and summary["cpu_share_min"] < 0.97:
		found.append("others took up to %.0f %% of the NF core while it was measured"
			     % (100 - 100 * summary["cpu_share_min"]))
	if conditions["cores"] < 2:
		found.append("the NF and the store shared one core")
	return found


# Targets.

def verdict(value, comparison, target):
	if value is None:
		return "not measured"
	if target is None:
		return "reported"
	return "reached" if (value >= target if comparison == ">=" else value <= target) else "missed"


def judged(summary):
	"""[(what, name, measured, target, paper, verdict)] of all targets, as text."""
	def text(value, unit):
		return "-" if value is None else f"{value:g} {unit}".strip()
	return [(what, name, text(summary.get(name), unit),
		 f"{comparison} {text(target, unit)}".strip(), paper,
		 verdict(summary.get(name), comparison, target))
		for what, name, comparison, target, unit, paper in TARGETS]


def text_table(summary):
	return "\n".join(f"  {what:46}{measured:>14}  {target:14} {how}"
			 for what, _, measured, target, _, how in judged(summary))


# The page.

def html_table(heads, rows, numeric=()):
	def cells(tag, values):
		return "".join(f'<{tag}{" class=n" if i in numeric else ""}>{value}</{tag}>'
			       for i, value in enumerate(values))
	return ('<div class="wide"><table><tr>' + cells("th", heads) + "</tr>"
		+ "".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</table></div>")


def html_figure(figure):
	e = html.escape
	parts = [f"<h2>{e(figure['title'])}</h2><p>{e(figure['text'])}</p>"]
	parts += [f'<p class="why">{e(what)}: {e(why)}</p>'
		  for what, why in figure["problems"].items()]
	path = os.path.join(OUT, figure["name"] + ".png")
	if os.path.exists(path):
		with open(path, "rb") as f:
			image = base64.b64encode(f.read()).decode()
		parts.append(f'<img alt="{e(figure["title"])}" src="data:image/png;base64,{image}">')
	if figure["rows"]:
		heads = list(figure["rows"][0])
		rows = [[e(str(row[head])) for head in heads] for row in figure["rows"]]
		parts.append("<details><summary>The numbers</summary>"
			     + html_table([e(head.replace("_", " ")) for head in heads], rows,
					  range(1, len(heads))) + "</details>")
	return "\n".join(parts)


def write_report(figures, conditions, summary):
	e = html.escape
	kinds = {"reached": "reached", "missed": "missed"}
	rows = [[f"{e(what)}", e(measured), e(target), e(paper),
		 f'<span class="{kinds.get(how, "none")}">{how}</span>']
		for what, _, measured, target, paper, how in judged(summary)]
	page = ["<!doctype html><html lang=en><meta charset=utf-8><title>statelessnf: evaluation"
		"</title><meta name=viewport content='width=device-width'>"
		f"<style>{STYLE}</style><h1>statelessnf: evaluation</h1>"]
	page += [f'<p class="warning">{e(text)}</p>' for text in warnings(conditions, summary)]
	page += [html_table(["", "measured", "target", "the paper", ""], rows, (1,)),
		 "<p>One NF core, one store core, unix socket, synthetic traffic in the process;"
		 " <i>embedded</i> is the same function with its state in its own process.</p>",
		 html_table(["conditions", ""], [[e(key.replace("_", " ")), e(str(value))]
						 for key, value in conditions.items()])]
	page += [html_figure(figure) for figure in figures]
	with open(os.path.join(OUT, "report.html"), "w") as f:
		f.write("\n".join(page) + "\n")


def write_summary(summary):
	with open(os.path.join(OUT, "summary.json"), "w") as f:
		json.dump(summary, f, indent=1)
		f.write("\n")

"""Print the tables of the README from the committed results.

python scripts/bench/tables.py [--write]     # --write: put them into README.md, between the markers
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "scripts" / "bench" / "results"
SHOWN_HOURS = (1, 3, 6, 9, 12)
NAMES = {"noisy": "noisy input", "wavecast": "**frcrn.stream16k**"}


def read(name: str) -> dict[str, Any]:
    """Read a result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def source(result: dict[str, Any]) -> str:
    """Say where a result comes from."""
    return f"{result['device']}, {result['date']}, commit {result['commit'][:8]}"


def quality() -> str:
    """Set the streaming enhancer beside its peers."""
    result = read("enhance_quality")
    costs = result["cpu_seconds_per_second"]
    lines = [
        "| | SI-SDR dB | PESQ | STOI | DNSMOS | CPU s per s |",
        "|---|---|---|---|---|---|",
    ]
    for system, row in result["systems"].items():
        cost = f"{costs[system]:.3f}" if system in costs else ""
        lines.append(
            f"| {NAMES.get(system, system)} | {row['si_sdr']:.2f} | {row['pesq']:.2f} | {row['stoi']:.3f} "
            f"| {row['dnsmos_ovrl']:.2f} | {cost} |"
        )
    peak, timed = result["peak_of_silence"], result.get("cost_mixtures", result["mixtures"])
    silence = f"digital silence stays below {peak:.0e}" if peak else "digital silence stays silent"
    lines += [
        "",
        f"{result['mixtures']} mixtures of {result['seconds']} s at -5 to 12 dB, voices and noises never trained on; "
        f"PESQ of clean speech through the model {result['pesq_of_clean']:.2f}, {silence}. CPU seconds on one "
        f"thread, frame by frame, over {timed} of them. `scripts/bench/enhance_quality.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def speed() -> str:
    """Set the published FRCRN beside its reference implementation."""
    result = read("enhance_speed")
    lines = [
        "| FRCRN | threads | clearvoice, CPU s per s | wavecast | times less | wall time, s per s | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        theirs, ours = row["clearvoice"], row["wavecast"]
        lines.append(
            f"| {row['seconds']} s | {row['threads']} | {theirs['cpu_per_second']:.2f} | {ours['cpu_per_second']:.2f} "
            f"| {row['times_less']:.1f} | {theirs['wall_per_second']:.2f} -> {ours['wall_per_second']:.2f} "
            f"| {theirs['peak_gb']:.1f} -> {ours['peak_gb']:.1f} GB |"
        )
    agreement = f"{result['agreement']:.0e}"
    lines += [
        "",
        f"One pass, both filled with the same weights, outputs equal to {agreement} of the largest value. "
        f"`scripts/bench/enhance_speed.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def windows() -> str:
    """Say what windows change of FRCRN's result; nothing where that was not measured."""
    found = read("enhance_speed").get("windows")
    if found is None:
        return ""
    return (
        f"On {found['seconds']} s, windows of 30 s differ from one pass by {found['difference_db']:.0f} dB of the "
        f"result's level (random weights) and take {found['windows']['peak_gb']:.1f} GB instead of "
        f"{found['whole']['peak_gb']:.1f} GB. `scripts/bench/enhance_speed.py`, {source(found)}."
    )


def variants() -> str:
    """Set variants of the streaming enhancer beside each other."""
    result = read("enhance_variants")
    lines = [
        "| variant | parameters, M | live CPU s per s | SI-SDR dB | PESQ | STOI |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        score = row["enhanced"]
        lines.append(
            f"| {row['variant']} | {row['parameters_m']:.2f} | {row['live_cpu_per_second']:.3f} "
            f"| {score['si_sdr']:.2f} | {score['pesq']:.2f} | {score['stoi']:.3f} |"
        )
    noisy = result["rows"][0]["noisy"]
    lines += [
        f"| noisy input | | | {noisy['si_sdr']:.2f} | {noisy['pesq']:.2f} | {noisy['stoi']:.3f} |",
        "",
        f"{result['steps']} steps of training from scratch, {result['hours_heard']:.1f} h of mixtures, the same for "
        f"all. `scripts/bench/enhance_variants.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def forecasts() -> str:
    """Set the shipped forecasters beside the baselines, at some lead times."""
    result = read("forecast_quality")
    ((variable, table),) = result["rmse"].items()
    short = {name: name.replace(".era5_uk_t2m", "") for name in result["models"]}
    lines = [
        "| lead | " + " | ".join(f"**{short[name]}**" if name in short else name for name in table) + " |",
        "|---" * (len(table) + 1) + "|",
    ]
    for hours, row in zip(result["lead_hours"], zip(*table.values(), strict=True), strict=True):
        if hours in SHOWN_HOURS:
            lines.append(f"| {hours:g} h | " + " | ".join(f"{one:.2f}" for one in row) + " |")
    first, last = result["report"]
    lines += [
        "",
        f"RMSE in {result['units'][variable]} from {result['initial_times']} initial times, {first} to {last}; "
        f"networks and baselines know {' to '.join(result['train'])}. `scripts/bench/forecast_quality.py`, "
        f"{source(result)}.",
    ]
    return "\n".join(lines)


def forecast_speed() -> str:
    """Set ConvS5 and PredFormer beside plain versions of their formulas."""
    convs5, predformer = read("convs5_speed"), read("predformer_speed")
    lines = ["| | plain | wavecast | times faster | peak memory |", "|---|---|---|---|---|"]
    found = {(row["version"], row["frames"], row["backward"]): row for row in convs5["rows"]}
    for (version, frames, backward), row in found.items():
        if version == "plain":
            continue
        plain = found["plain", frames, backward]
        kind = f"{'training' if backward else 'forward'}{', checkpointed' if 'checkpointed' in version else ''}"
        lines.append(
            f"| ConvS5, {frames} frames, {kind} | {plain['seconds']:.1f} s | {row['seconds']:.1f} s "
            f"| {plain['seconds'] / row['seconds']:.2f} | {plain['peak_mib']:.0f} -> {row['peak_mib']:.0f} MiB |"
        )
    names = {"moving_mnist": "PredFormer, Moving MNIST", "weather": "PredFormer, weather, batch 4"}
    for row in predformer["rows"]:
        for kind in ("forward", "training"):
            one = row[kind]
            lines.append(
                f"| {names[row['case']]}, {kind} | {one['plain_s']:.2f} s | {one['wavecast_s']:.2f} s "
                f"| {one['times_faster']:.2f} | |"
            )
    lines += [
        "",
        f"Processor seconds on {convs5['threads']} thread of the published Moving-MNIST ConvS5 (one film of 64 by 64 "
        f"pixels) and the published PredFormers, outputs and gradients equal. `scripts/bench/convs5_speed.py`, "
        f"`scripts/bench/predformer_speed.py`, {source(convs5)}.",
    ]
    return "\n".join(lines)


def moving_mnist() -> str:
    """Set the small Moving-MNIST forecaster beside persistence and an empty frame."""
    result = read("moving_mnist")
    names = {"forecast": "**convs5.moving_mnist**", "persistence": "persistence", "empty": "an empty frame"}
    columns = {"mse_sum_pixels": "MSE", "mae_sum_pixels": "MAE", "psnr": "PSNR dB", "ssim": "SSIM"}
    lines = [
        "| | MSE of frame 1 | MSE of frame 5 | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for name, found in result["by_frame"].items():
        errors = found["mse_sum_pixels"]
        cells = [f"{errors[0]:.1f}", f"{errors[4]:.1f}"]
        for metric in columns:
            cells.append(f"{sum(found[metric]) / len(found[metric]):.2f}" if metric in found else "")
        lines.append(f"| {names[name]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{result['clips']} test clips, 10 frames in and 10 out; MSE and MAE summed over the pixels of a frame, the "
        f"last four columns means over the 10. `scripts/bench/moving_mnist.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def separation() -> str:
    """Say what the shipped separator gains on voices that it was never trained on."""
    result = read("separate_quality")
    names = {"dry": "fully overlapping, dry", "varied": "turns, rooms, noise"}
    lines = [
        "| two speakers | mixture | separated | gain | of real voices | of synthetic ones |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in names.items():
        groups = result["sets"][name]
        gains = {kind: one["separated"]["si_sdr"] - one["mixture"]["si_sdr"] for kind, one in groups.items()}
        before, after = (groups["all"][side]["si_sdr"] for side in ("mixture", "separated"))
        lines.append(
            f"| {title} | {round(before, 1) + 0.0:.1f} | {after:.1f} | {gains['all']:.1f} "
            f"| {gains['real']:.1f} | {gains['synthetic']:.1f} |"
        )
    single, items = result["sets"]["single"]["single speaker"], result["sets"]["dry"]["all"]["items"]
    lines += [
        "",
        f"SI-SDR in dB, means over the speakers of {items} mixtures of {result['seconds']:g} s, held-out voices. A "
        f"single speaker comes out with {single['separated']['si_sdr']:.1f} dB. {result['cpu_seconds_per_second']:.3f} "
        f"CPU seconds per second of sound on one thread. `scripts/bench/separate_quality.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def separation_speed() -> str:
    """Set the published MossFormer2 beside its reference implementation."""
    result, names = read("separate_speed"), {"separate": "separation", "enhance48": "48 kHz, mask network"}
    lines = ["| MossFormer2 | clearvoice | wavecast | times less | peak memory |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        theirs, ours = row["clearvoice"], row["wavecast"]
        lines.append(
            f"| {names[row['network']]}, {row['seconds']} s | {theirs['cpu_per_second']:.2f} CPU s per s "
            f"| {ours['cpu_per_second']:.2f} | {row['times_less']:.2f} "
            f"| {theirs['peak_gb']:.1f} -> {ours['peak_gb']:.1f} GB |"
        )
    agreement = max(row["difference"] for row in result["rows"])
    floor = result["floor"]
    lines += [
        "",
        f"One thread, both filled with the same weights, outputs equal to {agreement:.0e} of the largest value. The "
        f"products of separation alone would take {floor['cpu_per_second']:.1f} CPU s per s at the "
        f"{floor['gigaflops']:.0f} GFLOP/s of this processor. `scripts/bench/separate_speed.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def keywords() -> str:
    """Say what the shipped spotter finds, and what it takes for words that are none."""
    result = read("keyword_quality")
    lines = [
        "| voices never trained on | told apart | other sounds rejected | found in recordings | false alarms an hour |",
        "|---|---|---|---|---|",
    ]
    for name, title in {"clean": "clean", "noisy": "rooms and noises, 5 to 25 dB"}.items():
        views, planted = result[f"views_{name}"], result[f"planted_{name}"]["as_chosen"]
        lines.append(
            f"| {title} | {100 * views['accuracy']:.1f} % of {views['words']} | {100 * views['rejected']:.1f} % of "
            f"{views['others']} | {100 * planted['recall']:.1f} % of {planted['said']} "
            f"| {planted['alarms_per_hour']:.2f} |"
        )
    chosen, best = (result["planted_clean"][name] for name in ("as_chosen", "at_90_percent_recall"))
    at_best = f"{best['alarms_per_hour']:.2f} at 90 % recall" if best else "90 % recall is not reached at any threshold"
    lines += [
        "",
        f"The 35 words in synthetic voices; false alarms in {chosen['hours']:.2f} h of real speech of held-out "
        f"speakers ({at_best}, clean). Events come {1000 * chosen['latency']:.0f} ms after the end of a word on "
        f"average; "
        f"{result['real_time_factor']:.3f} CPU seconds per second of sound on one thread. "
        f"`scripts/bench/keyword_quality.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def transcription() -> str:
    """Say how often the shipped transcriber is wrong, at every look-ahead and with both heads, beside pocketsphinx."""
    result = read("transcribe_quality")
    rows = [row for row in result["rows"] if row["precision"] == "float32"]
    lines = [
        "| look-ahead | head | decoding | synthetic voices, word errors | characters | real voices | characters "
        "| CPU s per s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in dict.fromkeys(map(way_of, rows)):
        sets = {row["set"]: row for row in rows if way_of(row) == way}
        figures = [f"{100 * sets[name][rate]:.1f} %" for name in ("synthetic", "real") for rate in ("wer", "cer")]
        cost = max(row["cpu_seconds_per_second"] for row in sets.values())
        lines.append(f"| {way[0]} ms | {way[1]} | {way[2]} | " + " | ".join(figures) + f" | {cost:.3f} |")
    if peers := {row["set"]: row for row in result.get("pocketsphinx", [])}:
        synthetic, real = peers["synthetic"], peers["real"]
        cost = max(row["cpu_seconds_per_second"] for row in peers.values())
        rates = f"{100 * synthetic['wer']:.1f} % | | {100 * real['wer']:.1f} %"
        lines.append(f"| live | pocketsphinx | its own language model | {rates} | | {cost:.3f} |")
    exact = {(row["set"], *way_of(row)): row["wer"] for row in rows}
    rough = [row for row in result["rows"] if row["precision"] == "int8"]
    most = max(abs(row["wer"] - exact[row["set"], *way_of(row)]) for row in rough)
    words = {row["set"]: row["words"] for row in rows}
    lines += [
        "",
        f"Voices never trained on: {words['synthetic']} words of unseen sentences in synthetic voices, {words['real']} "
        f"of one actor's dialogues, band-limited to 5.5 kHz. int8 changes word error rates by at most "
        f"{100 * most:.1f} points. One thread. `scripts/bench/transcribe_quality.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def way_of(row: dict[str, Any]) -> tuple[int, str, str]:
    """Give how a transcriber was used for a row."""
    return row["look_ahead_ms"], row["head"], row["decoding"]


def activities() -> str:
    """Set heads that hear of time beside the mean over frames."""
    result = read("moving_shapes")
    names = {"lrcn": "LRCN", "ts_lstm": "TS-LSTM", "temporal_inception": "Temporal-Inception", "frame_average": "mean"}
    lines = [
        "| head | all | reversed pairs | reordered pairs | the others | forced choice, reversed | reordered |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["models"]:
        figures = [row[name] for name in ("accuracy", "reversed", "reordered", "alone")]
        figures += [row[f"{name}_forced_choice"] for name in ("reversed", "reordered")]
        seen = ", ".join(row["modalities"])
        lines.append(
            f"| {names[row['architecture']]} ({seen}) | " + " | ".join(f"{100 * x:.1f}" for x in figures) + " |"
        )
    lines += [
        "",
        f"Accuracy in % on {result['clips']} generated clips of {result['classes']} classes, with shapes, textures and "
        "grounds that were never trained on. Reversed pairs are each other's time reversal, reordered ones go there "
        f"and back in either order; a forced choice between the two of a pair is right half of the time by chance. "
        f"`scripts/bench/moving_shapes.py`, {source(result)}.",
    ]
    return "\n".join(lines)


def apps() -> str:
    """List every app with its command, the model that ships, its latency and what was measured."""
    enhanced, separated = read("enhance_quality"), read("separate_quality")
    noisy, clean = (enhanced["systems"][name]["si_sdr"] for name in ("noisy", "wavecast"))
    gains = [
        groups["all"]["separated"]["si_sdr"] - groups["all"]["mixture"]["si_sdr"]
        for groups in (separated["sets"][name] for name in ("dry", "varied"))
    ]
    written = {
        row["set"]: row
        for row in read("transcribe_quality")["rows"]
        if (*way_of(row), row["precision"]) == (480, "rnnt", "guided", "float32")
    }
    spotted, shapes = read("keyword_quality"), read("moving_shapes")["models"][0]
    ((_, table),) = read("forecast_quality")["rmse"].items()
    at = read("forecast_quality")["lead_hours"].index(6.0)
    alarms = spotted["planted_clean"]["as_chosen"]
    rows = [
        (
            "noise out of speech",
            "`wavecast enhance`",
            "`frcrn.stream16k`",
            latency("frcrn.stream16k"),
            f"SI-SDR {noisy:.1f} -> {clean:.1f} dB, {enhanced['cpu_seconds_per_second']['wavecast']:.2f} CPU s per s",
        ),
        (
            "every voice on its own",
            "`wavecast separate`",
            "`mossformer2.ss2_small`",
            "whole recordings",
            f"{gains[0]:.1f} to {gains[1]:.1f} dB gained, {separated['cpu_seconds_per_second']:.2f} CPU s per s",
        ),
        (
            "speech to text",
            "`wavecast transcribe`",
            "`fastconformer.en_small`",
            "80 ms and the look-ahead",
            f"{100 * written['synthetic']['wer']:.0f} % of synthetic words wrong, "
            f"{100 * written['real']['wer']:.0f} % of an actor's",
        ),
        (
            "single words",
            "`wavecast spot`",
            f"`{spotted['model']}`",
            f"{alarms['latency']:.1f} s after a word",
            f"{100 * alarms['recall']:.0f} % found, {alarms['alarms_per_hour']:.1f} false alarms an hour",
        ),
        (
            "weather fields and video",
            "`wavecast forecast`",
            "`convs5.era5_uk_t2m` and four more",
            "one step",
            f"{table['convs5.era5_uk_t2m'][at]:.2f} K after 6 h (persistence {table['persistence'][at]:.2f})",
        ),
        (
            "activities in video",
            "`wavecast recognize`",
            f"`{shapes['model']}`",
            "one frame",
            f"{100 * shapes['accuracy']:.1f} % of generated activities",
        ),
    ]
    head = "| what | command | model that ships | latency live | measured |\n|---|---|---|---|---|"
    return "\n".join([head, *("| " + " | ".join(row) + " |" for row in rows)])


def latency(model: str) -> str:
    """Give the latency that a shipped card states."""
    card = yaml.safe_load((ROOT / "checkpoints" / f"{model}.yaml").read_text(encoding="utf-8"))
    return f"{card['latency_ms']:.0f} ms"


PLACES = {
    "README.md": {
        "apps": apps,
        "quality": quality,
        "speed": speed,
        "windows": windows,
        "forecasts": forecasts,
        "separation": separation,
        "separation_speed": separation_speed,
        "transcription": transcription,
        "keywords": keywords,
        "activities": activities,
    },
    "checkpoints/README.md": {"variants": variants, "moving_mnist": moving_mnist, "forecast_speed": forecast_speed},
}


def filled(file: str) -> str:
    """Give a file's text with its tables between their markers.

    Raises:
        ValueError: a table has no place in it, or more than one.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, table in PLACES[file].items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        pattern = re.escape(begin) + "(.*?\n)?" + re.escape(end.lstrip())
        text, found = re.subn(pattern, lambda _, t=table, b=begin, e=end: b + t() + e, text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{file} has {found} places for the table {name}\nhint: <!-- {name} --> ... once")
    return text


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    for file, tables in PLACES.items():
        if args.write:
            (ROOT / file).write_text(filled(file), encoding="utf-8")
        else:
            print(*(table() + "\n" for table in tables.values()), sep="\n")


if __name__ == "__main__":
    main()

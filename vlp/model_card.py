"""README.md of a MODEL: what it was made from, what it may be used for, what it cannot do."""

from __future__ import annotations

from typing import Any


def model_card(manifest: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        manifest: Fields of the model's manifest.
        metrics: Content of metrics.json.
    """
    auroc = metrics.get("val_mention_macro_auroc")
    validation = "no validation films: the last epoch was kept"
    if auroc is not None:
        validation = (
            f"epoch {metrics['best_epoch']} of {metrics['epochs_run']}; macro AUROC {auroc:.3f} over "
            f"{metrics['mention_queries']} concepts against what the validation reports say (not labels)"
        )
    blocks = manifest["recipe"]["tower"]["trained_blocks"]
    trained = "frozen" if not blocks else "all of it trained" if blocks < 0 else f"its last {blocks} blocks trained"
    changes = "".join(
        f"| Changed on the way | `{change['key']}` was {change['before']} |\n" for change in manifest["recipe_changed"]
    )
    return f"""# Chest X-ray query model

Asked about a concept, it says how likely a frontal chest film shows it, and where.

| | |
|---|---|
| Image tower | {manifest["tower"]["name"]}, {trained} |
| Trained on | {metrics["train_films"]} films of `{manifest["dataset"]}`, supervised by report text only |
| Concepts asked in training | {metrics["queries"]} (`queries.parquet`) |
| Validation | {validation} |
{changes}| Data digest | `{manifest["data_digest"]}` |
| Concept encoder | digest `{manifest["encoder_digest"]}`, licence level {manifest["licence_level"]} |

## Terms

{manifest["data_licence"]}. A model trained on these data carries their terms: research only, and not for sale
where the data are non-commercial. A concept encoder of licence level above 0 holds what its vocabularies'
licences protect.

## Limits

Not a medical device and **not for clinical use**. The network's probabilities are not calibrated; where
`calibration.json` is here, it maps them to how often validation reports call a concept present, and where
`input_check.safetensors` is here, `vlp predict --check-input` abstains from what does not look like the training
films. It was trained on the reports of one source, few of them, and reads what those reports tend to mention;
other hospitals, devices, ages, projections and findings that reports leave out may be read wrongly. A heat map
shows where the score comes from, not where a disease ends.
"""

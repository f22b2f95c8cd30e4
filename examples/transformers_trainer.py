"""Hugging Face Trainer: a small text classifier, trained by gRDA.

python examples/transformers_trainer.py
python examples/transformers_trainer.py --epochs 40 --resume
"""

import argparse
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

from dirprune.integrations.transformers import PrunableGRDA, SparsityCallback

PRAISE = ["good", "great", "fine", "lovely", "superb"]
BLAME = ["bad", "awful", "poor", "dull", "dreadful"]
NOUNS = ["film", "book", "play", "song", "meal", "game"]
TEMPLATES = ["a {} {}", "the {1} is {0}", "this {1} was so {0}", "what a {} {} that was"]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
parser.add_argument("--out", type=Path, default=Path("runs/examples/transformers_trainer"))
options = parser.parse_args()

sentences = [
    (template.format(word, noun), label)
    for label, words in enumerate((BLAME, PRAISE))
    for word in words
    for noun in NOUNS
    for template in TEMPLATES
]
vocabulary = {word: i for i, word in enumerate(sorted({w for text, _ in sentences for w in text.split()}), 1)}


def example(text: str, label: int) -> dict[str, torch.Tensor]:
    """Turn a sentence into what the model takes; 0 fills up."""
    ids = torch.tensor([vocabulary[word] for word in text.split()])
    ids = torch.nn.functional.pad(ids, (0, 6 - len(ids)))
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor(label)}


set_seed(0)
config = BertConfig(
    vocab_size=len(vocabulary) + 1,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=8,
    initializer_range=0.1,  # nothing is pretrained here, and the network is small
)
training, held_back = (
    [example(*sentence) for i, sentence in enumerate(sentences) if (i % 5 == 0) == held_back]
    for held_back in (False, True)
)
trainer = Trainer(
    model=BertForSequenceClassification(config),
    args=TrainingArguments(
        output_dir=str(options.out),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=16,
        lr_scheduler_type="constant",  # what gRDA suits
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=training,
    eval_dataset=held_back,
    compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    # Plain gRDA will do here; a real transformer wants momentum=0.9, beta2=0.999 and a c near 1.
    # Pass (dirprune.GRDA, {...}) to threshold embeddings, biases and LayerNorm too.
    optimizer_cls_and_kwargs=(PrunableGRDA, {"lr": 0.3, "c": 5e-3, "mu": 0.7}),
)
trainer.add_callback(SparsityCallback(trainer))
trainer.train(resume_from_checkpoint=options.resume)

sparsity = next(log["sparsity"] for log in reversed(trainer.state.log_history) if "sparsity" in log)
print(f"accuracy {trainer.evaluate()['eval_accuracy']:.4f}  sparsity {sparsity:.4f}")

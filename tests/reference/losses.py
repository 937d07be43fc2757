"""Losses as loops, written from the papers' equations."""

import math


def weighted_softmax(logits, labels, counts):
    """Equations 5 to 7 of ResNeXt-CC, for two classes: each times the other's fraction."""
    total = 0.0
    for row, label in zip(logits, labels):
        denominator = sum(math.exp(float(value)) for value in row)
        probability = math.exp(float(row[label])) / denominator
        other = 1 - int(label)
        total -= counts[other] / sum(counts) * math.log(probability)
    return total / len(labels)


def center(features, labels, centers):
    """Equation 8 of ResNeXt-CC, as a mean over the mini-batch."""
    total = 0.0
    for feature, label in zip(features, labels):
        total += sum((float(x) - float(c)) ** 2 for x, c in zip(feature, centers[label])) / 2
    return total / len(labels)


def moved_centers(features, labels, centers, alpha):
    """Equations 9 and 10 of ResNeXt-CC: the centers after a step on the mini-batch."""
    moved = []
    for j, center_j in enumerate(centers):
        members = [feature for feature, label in zip(features, labels) if int(label) == j]
        step = sum(((center_j - feature) for feature in members), start=0.0 * center_j) / (
            1 + len(members)
        )
        moved.append(center_j - alpha * step)
    return moved


def contrastive(features, labels, threshold):
    """Equation 17 of the sparse ViT paper, with its threshold."""
    total = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            dot = sum(float(a) * float(b) for a, b in zip(features[i], features[j]))
            cosine = dot / float(features[i].norm() * features[j].norm())
            total += 1 - cosine if labels[i] == labels[j] else max(cosine - threshold, 0.0)
    return total / len(labels) ** 2


def focal(logits, labels, alpha, gamma):
    """Equation 5 of the focal loss paper on the softmax's probability."""
    total = 0.0
    for row, label in zip(logits, labels):
        denominator = sum(math.exp(float(value)) for value in row)
        probability = math.exp(float(row[label])) / denominator
        total -= alpha[label] * (1 - probability) ** gamma * math.log(probability)
    return total / len(labels)

"""Classify digits by their neighbours, and lay them out on a plane, with scikit-learn's pipelines.

    python examples/sklearn_neighbors.py                        # through a flashmatch bank
    python examples/sklearn_neighbors.py --neighbors sklearn    # as scikit-learn does it

Data: the 1,797 handwritten digits, 8 x 8 pixels, that ship with scikit-learn. The pipelines are the
same; only the module that the neighbours come from differs.
"""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec

MODULES = {"flashmatch": "flashmatch.adapters.sklearn", "sklearn": "sklearn.neighbors"}


def accuracy(neighbors: str) -> float:
    """On held-out digits, with the number of neighbours chosen by cross-validation."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    module = import_module(MODULES[neighbors])
    pixels, digits = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(pixels, digits, random_state=0)
    classifier = module.KNeighborsClassifier(metric="cosine")
    pipeline = Pipeline([("scale", StandardScaler()), ("knn", classifier)])
    search = GridSearchCV(pipeline, {"knn__n_neighbors": [1, 3, 5, 9]}, cv=3)
    return search.fit(train, y_train).score(test, y_test)


def layout_trust(neighbors: str, rows: int = 500) -> float:
    """How far a layout on a plane, of a graph of distances, keeps neighbours together; up to 1."""
    from sklearn.datasets import load_digits
    from sklearn.manifold import Isomap, trustworthiness
    from sklearn.pipeline import make_pipeline

    module = import_module(MODULES[neighbors])
    pixels = load_digits().data[:rows]
    graph = module.KNeighborsTransformer(n_neighbors=15, mode="distance")
    plane = make_pipeline(graph, Isomap(n_neighbors=15, metric="precomputed"))
    return trustworthiness(pixels, plane.fit_transform(pixels))


def main(neighbors: str = "flashmatch") -> tuple[float, float]:
    found = accuracy(neighbors), layout_trust(neighbors)
    print(f"neighbours from {MODULES[neighbors]}")
    print(f"accuracy on held-out digits    {found[0]:.4f}")
    print(f"trustworthiness of the layout  {found[1]:.4f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Neighbours of digits in scikit-learn's pipelines")
    parser.add_argument("--neighbors", choices=MODULES, default="flashmatch")
    options = parser.parse_args()
    if not find_spec("sklearn"):
        sys.exit(f'{sys.argv[0]} needs scikit-learn: pip install "flashmatch[examples]"')
    main(**vars(options))

"""Libraries that keep FAISS's indexes, with our module in its place."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import output_of

import flashmatch.adapters.faiss as ours

X = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)


@pytest.mark.parametrize("which", ["faiss", "ours"])
def test_hugging_face_datasets(which: str, tmp_path: Path) -> None:
    """In a process of its own: datasets keeps what it has imported."""
    pytest.importorskip("datasets")
    pytest.importorskip("faiss")
    program = f"""
import sys
import numpy as np
import flashmatch.adapters.faiss
if {which == "ours"}:
    sys.modules["faiss"] = flashmatch.adapters.faiss
from datasets import Dataset
X = np.random.default_rng(0).standard_normal((50, 8)).astype("float32")
data = Dataset.from_dict({{"e": X.tolist()}}).with_format("numpy")
data.add_faiss_index("e", metric_type=0, train_size=20)
data.save_faiss_index("e", "saved")
data.load_faiss_index("again", "saved")
data.add_faiss_index("e", index_name="cosine", string_factory="L2norm,Flat", metric_type=0)
data.add_faiss_index_from_external_arrays(X, index_name="external")
if {which == "ours"}:
    import faiss
    faiss.write_index(data.get_index("e").faiss_index, "file")
    data.load_faiss_index("file", "file")
else:
    data.load_faiss_index("file", "saved")
for name in ("e", "again", "file", "cosine", "external"):
    print(name, data.search_batch(name, X[:9], k=5)[1].tolist())
"""
    lines = output_of("-c", program, cwd=tmp_path).splitlines()
    index = ours.IndexFlatIP(8)
    index.add(X)
    inner = index.search(X[:9], 5)[1].tolist()
    assert lines[:3] == [f"{name} {inner}" for name in ("e", "again", "file")]
    normal = ours.index_factory(8, "L2norm,Flat", 0)
    normal.add(X)
    assert lines[3] == f"cosine {normal.search(X[:9], 5)[1].tolist()}"
    assert lines[4] == f"external {ours.knn(X[:9], X, 5)[1].tolist()}"


def test_langchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectorstores = pytest.importorskip("langchain_community.vectorstores")
    monkeypatch.setitem(sys.modules, "faiss", ours)
    texts = [str(i) for i in range(50)]

    def embed(text: str) -> list[float]:
        return X[int(text)].tolist()

    pairs = [(text, embed(text)) for text in texts]
    store = vectorstores.FAISS.from_embeddings(pairs, embed)
    store.save_local(str(tmp_path))
    loaded = vectorstores.FAISS.load_local(
        str(tmp_path), embed, allow_dangerous_deserialization=True
    )
    expected = [texts[i] for i in ours.knn(X[7:8], X, 4)[1][0]]
    for either in (store, loaded):
        found = either.similarity_search_with_score("7", k=4)
        assert [document.page_content for document, _ in found] == expected
    loaded.delete([loaded.index_to_docstore_id[7]])
    assert loaded.similarity_search("7", k=1)[0].page_content == expected[1]
    loaded.merge_from(vectorstores.FAISS.from_embeddings(pairs, embed))
    assert loaded.index.ntotal == 99
    again = vectorstores.FAISS.deserialize_from_bytes(
        loaded.serialize_to_bytes(), embed, allow_dangerous_deserialization=True
    )
    assert again.index.ntotal == 99
    assert isinstance(pickle.loads(loaded.serialize_to_bytes())[0], ours.IndexFlatL2)

"""The datasets that can be fetched by name: where their authors publish them, their sums, licences, what to cite.

A dataset is an entry of `DATASETS`. An address or a sum that can't be told for certain is left out. Addresses in a
repository name a commit, so that what lies there can't change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass(frozen=True)
class File:
    """A file at an address.

    checksum  "sha256:HEX", or "git:HEX", the id of git that a repository lists for its content; None: none is known
    unpacked  whether it is an archive (.tar.gz, .zip), or goes into the folder under its own name
    """

    address: str
    checksum: str | None = None
    unpacked: bool = True

    @property
    def name(self) -> str:
        return self.address.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """What is published under a name.

    size     bytes to fetch, about, where that is known
    licence  what its publishers say, and in brackets what they took it from
    members  {name in an archive: name in the folder}; empty: all files, without a folder that all of them share
    most     bytes that it may have unpacked: beyond, it is no longer what it was
    """

    name: str
    files: tuple[File, ...]
    entities: int
    relations: int
    triples: int
    size: int | None
    licence: str
    source: str
    cite: str
    members: dict[str, str] = field(default_factory=dict)
    most: int = GIB


CONVE = "https://raw.githubusercontent.com/TimDettmers/ConvE/f3c0eb286025410fa5b4c04696c918264163d0ca/"
CODEX = "https://raw.githubusercontent.com/tsafavi/codex/3132e426c2a6b643b70bad679905a3a6270be440/data/triples/"
GRAIL = "https://raw.githubusercontent.com/kkteru/grail/2a3dffa719518e7e6250e355a2fb37cd932de91e/data/"
OGB = "https://snap.stanford.edu/ogb/data/linkproppred/"
SPLITS = ("train.txt", "valid.txt", "test.txt")
KEMP = "Kemp et al. 2006, https://www.aaai.org/Papers/AAAI/2006/AAAI06-061.pdf"


def conve(
    name: str, file: str, checksum: str, counts: tuple[int, int, int], size: int | None, licence: str, cite: str
) -> Dataset:
    """An archive of ConvE's repository, whose splits most papers use."""
    members = {split: split for split in SPLITS}
    files, source = (File(CONVE + file, checksum),), "https://github.com/TimDettmers/ConvE"
    return Dataset(name, files, *counts, size, f"MIT ({licence})", source, cite, members)


def codex(part: str, counts: tuple[int, int, int], size: int | None, *sums: str) -> Dataset:
    """CoDEx: three plain files."""
    listed = zip(SPLITS, sums, strict=True)
    files = tuple(File(f"{CODEX}{part}/{split}", checksum, False) for split, checksum in listed)
    cite = "Safavi and Koutra 2020, https://arxiv.org/abs/2009.07810"
    return Dataset(part, files, *counts, size, "MIT (Wikidata: CC0)", "https://github.com/tsafavi/codex", cite)


def grail(folder: str, entities: int, relations: int, triples: int, size: int, *sums: str) -> Dataset:
    """GraIL's inductive sets: models learn on NAME and are asked about NAME_ind, which has other entities."""
    listed = zip(SPLITS, sums, strict=True)
    files = tuple(File(f"{GRAIL}{folder}/{split}", f"sha256:{digits}", False) for split, digits in listed)
    licence = f"none stated ({'Freebase: CC BY' if folder.startswith('fb') else 'WordNet licence'})"
    cite, source = "Teru et al. 2020, https://arxiv.org/abs/1911.06962", "https://github.com/kkteru/grail"
    return Dataset(folder.lower(), files, entities, relations, triples, size, licence, source, cite)


DATASETS = (
    # its authors' own archive (microsoft.com/en-us/download/details.aspx?id=52312) has no sum that is known
    conve(
        "fb15k-237", "FB15k-237.tar.gz", "sha256:311df7930f842a02979eaa7a802484a6afe62303c07f915f1e6edbc30cbe05e8",
        (14_541, 237, 310_116), 3_678_603, "Freebase: CC BY",
        "Toutanova and Chen 2015, https://www.aclweb.org/anthology/W15-4007",
    ),
    conve(
        "wn18rr", "WN18RR.tar.gz", "sha256:1eb9152f804c140d163462c0d49f65e5a0b30ab5fbb375c5e3353c11a6249060",
        (40_943, 11, 93_003), 892_861, "WordNet licence", "Dettmers et al. 2018, https://arxiv.org/abs/1707.01476",
    ),
    conve(
        "yago3-10", "YAGO3-10.tar.gz", "git:be63d16955e1951cb6539710204af43cb38da7d9",
        (123_182, 37, 1_089_040), None, "YAGO: CC BY", "Dettmers et al. 2018, https://arxiv.org/abs/1707.01476",
    ),
    conve(
        "umls", "umls.tar.gz", "sha256:26223aa91f0ec8db2324e0f489b9a4425e04d1d0df72ce5cfd62af4b91aee6fd",
        (135, 46, 6_529), 35_648, "UMLS licence", KEMP,
    ),
    conve(
        "nations", "nations.tar.gz", "sha256:feb3e3e027103089934ea7dfb67d2048d8a43e65d6757a86f2e037acb66f640b",
        (14, 55, 1_992), 8_077, "of its source none stated", KEMP,
    ),
    conve(
        "kinships", "kinship.tar.gz", "sha256:a3cb9ca67213eb38133aebc12901195e283d844ebd59f1a6cbf2d4fa12ced4e6",
        (104, 25, 10_686), 42_703, "of its source none stated", KEMP,
    ),
    codex(
        "codex-s", (2_034, 42, 36_543), 684_003,
        "sha256:64f93b7f314f3936a6f65739721429db3f6a7c8f5a1e1104ec3bb544f7434f59",
        "sha256:3831c0e57daef03c3a18cdd1a72e370b496f696c5218883d35c7d2ab8a6a772c",
        "sha256:27127fcb34688c4778e88a39ef3c9b540807da846021e9d9685660ac1838aca1",
    ),
    codex(
        "codex-m", (17_050, 51, 206_205), 4_067_376,
        "sha256:d99c3437ab51690391a26d96976adf6e5494dba7ef6902e77000551bfa566556",
        "sha256:11c323096367354940846b9ed940c5dabddc1d20a70474222babe7e7fd28b28d",
        "sha256:0575ce05e4ce915e395bb4f708e8df9547989dd4c8c71407cbfd78c19daffcf7",
    ),
    codex(
        "codex-l", (77_951, 69, 612_437), None,
        "git:be8735738ba4728430922c630f25bf01bcc9eaac",
        "sha256:f0119a22dc663e8df4a942cde7404927935b0c42e5a8980f5fb48ac6886e416f",
        "sha256:2d8188d6f199fc548c8e5fb97336a7ffd079240fc84c0425ed9c29d39bfdab8d",
    ),
    grail(
        "fb237_v1", 1_594, 180, 5_226, 376_518,
        "74ef3120fe38a22e5131064d23108b88a8d339496057fa8467d80dcda8f1cec1",
        "d4c2698d7dc36c0dc39ffb3d810caeafe530d779bf9f6451fac2027f41c2ff6d",
        "130534f98bc3b9621bc866035098b132091e8bc749fbad327b5978f3d47f49f7",
    ),
    grail(
        "fb237_v1_ind", 1_093, 142, 2_404, 177_156,
        "049829f7047ecf0e0bff0769efca31bc7f811f760c4ffcb20a5680f789b00c61",
        "ac817123c4177ef46b08a3802380a355282b99d4283c43474c9dd91c082107dd",
        "c79d39372be30a3864cfe5094b3022f38b57d88c351dbbfa2d9e7f3368ac23aa",
    ),
    grail(
        "fb237_v2", 2_608, 200, 12_085, 900_199,
        "542f81af46d6727979278643105ba7c236dd8b29ee5d9962e3c3fa295ab8869c",
        "59e07dcb883b28bb35585ba95576e4ebb2a71ddbc906119abcc4c87b28198d0c",
        "95da050e60b94f285cdf18ea7899b34df9e0a4a1d638f5ec6ff99caef36a2beb",
    ),
    grail(
        "fb237_v2_ind", 1_660, 172, 5_092, 402_297,
        "6756f8d4aa688bc1a18c1106117a7fde94e0469f223f5d00954846afce471e54",
        "2c3b4430cac899b868c9dd22ece0eae830ca62c8a6c0bf8610c670bbeaf7d6d8",
        "17c16e008cb6dfdc67ef0f375aab0a8fee2b087c7d687a72f5217b789d0c4a10",
    ),
    grail(
        "fb237_v3", 3_668, 215, 22_394, 1_732_675,
        "0f27b7f00d3e34964450c22445d17f7612d12d7c382caa3317f45bfe7465f299",
        "8b034e73fe64af9c7baf1e12704a94e7e9a9e6b9242feb498c69ebd65bccf269",
        "f93ff5277296486e2ce5d035e46b81b24b89e55a7a8e41196636482aeb50a49b",
    ),
    grail(
        "fb237_v3_ind", 2_501, 183, 9_137, 691_467,
        "2805f9237816f5bb5bb1ff1fbc3d37cc0beb99047bef3a6bd82cc1f6947e8525",
        "76f7691aa597d43d704af047d01a5f4d266c02733c52a5c340c2bea4a85dd281",
        "7dbd4d74210ffd5029d95327639f83c3b46f8bd4ee3571e619812b367d0880da",
    ),
    grail(
        "fb237_v4", 4_707, 219, 33_916, 2_621_020,
        "b9fa0f2650a1ab7687e21e0aec24bb51c0b0eacf0d88c8780c03c9b201b9148d",
        "d99dedcd13bc0cd338a299a895685b66f15e0b7ed42477d40f1ad1a65ce6d483",
        "f1ecc866636b2704bd6f7cae53d2bbeea414fa88c1f2b4ab9f1924719bd505c8",
    ),
    grail(
        "fb237_v4_ind", 3_051, 200, 14_554, 1_122_246,
        "ef55c03e05d5eeeec97fe2030e92bc36bd5ee9311b770ae0a3fd812982686e8d",
        "0a237c20719267449388e1d43995ccf67da5a3c82085ba5d2e3996c77dc73921",
        "8e6e19adb9b154348897bf896b5305a76126bc4d79a21705ea47e4efce2d84f3",
    ),
    grail(
        "WN18RR_v1", 2_746, 9, 6_678, 263_166,
        "4cc72d4fdcc8206e208e1f59f3c778be5de4a68cfe76776d15245b0d2c08d396",
        "5cebd29da8ada35ac73b6875329884cdf83943ddea454e9f70cc43b423ea479b",
        "f1cb44e999e2540a0a614f4bb710c7f82a9304432ff37ce282749b56c66d0d20",
    ),
    grail(
        "WN18RR_v1_ind", 922, 8, 1_991, 83_447,
        "7d1b73c5994e9aa816b34e33ee10707656803ba6b8a0f6066cae7ddc04f87553",
        "cfa28b9d75dbab17ea82a9443a5bf8acb738e60267cc63f8a221b38967e1d238",
        "6df8c00a2e0cf1a4b484ac638c081198926fcbc411ce2e12ccc79d432eead269",
    ),
    grail(
        "WN18RR_v2", 6_954, 10, 18_968, 756_075,
        "a14a902df92e32f4aeb65761560072a007ae915308bb8a7a03c58dc1e9c2a9ad",
        "2d3f6703d87fe1605f636736f0e848d9750b8e1593bd41101554ecbb41a1d836",
        "04e03f270adf4970132ad51ab1a4022e46e790e9b662890ce4e13d31e6d096ad",
    ),
    grail(
        "WN18RR_v2_ind", 2_757, 10, 4_863, 195_622,
        "8dc9bb459e6306737a083b15698ed1420ce8dc57e27f8a42ab7b90c26dfc5154",
        "fc32db7cb56dba0ff05bf57efd8a2279f0825dc6ae763c9d32281a9a1373c09a",
        "3b3942ce7665f1a6667721f5eab946bde79a5929f1996c5af16e0b092a5084bb",
    ),
    grail(
        "WN18RR_v3", 12_078, 11, 32_150, 1_253_594,
        "324a2b04b621bfe8d2dd98ad1c585fbc7efefb1548e92b5d10afc08733286aa7",
        "7f008df4879d36ef70a5c5eb58a7c87488c3f1fea606ab484e66a1aff89b0cbc",
        "df6690cc2a454c14f79a62e879ba6d688bd666f2cf6168e1d6abffd7a7efc598",
    ),
    grail(
        "WN18RR_v3_ind", 5_084, 11, 7_470, 270_353,
        "85b817c364d097793a4b0969fa49d20167345256bf812c978bff381ad3aef492",
        "c0876dafce4cef4c6ef1aa53457fb9f4e40a31a8bf9edbaf05389bfe5ba26f43",
        "efad21a11c1cf26a1a4a5fcf7a64c585ccde3c4f8f71de3a00a995d9e8c9938d",
    ),
    grail(
        "WN18RR_v4", 3_861, 9, 9_842, 388_680,
        "5eace2cdfdffb2b19c6d27c7527ae79b8f4b1b3fb712d9a5049243a13edb95ca",
        "ca1568ca934bbf5ccfeabb3a67010968433c0e5bc1df9b0d3d48279023abd7bd",
        "7d4f3226400ea477a5559aa69034df73f0cd314c1a1916963ac000b2cac44e82",
    ),
    grail(
        "WN18RR_v4_ind", 7_084, 9, 15_157, 615_868,
        "d5608132dab5873666e249c1de9412608c0e0b2cc0d154b0ffceff1ce067cc03",
        "0928c5cb528ebde49a3be13f3df4d863f95312c247854bea556c65008cc5b54c",
        "10ccff353175e6eaaff0b3d7ef7931115845868653ddba0ba6fb5c8dfdab6364",
    ),
    Dataset(
        "wikidata5m",
        (File("https://www.dropbox.com/s/6sbhm0rwo4l73jq/wikidata5m_transductive.tar.gz?dl=1"),),
        4_594_485, 822, 20_624_575, 168_000_000, "none stated (Wikidata: CC0)",
        "https://deepgraphlearning.github.io/project/wikidata5m", "Wang et al. 2021, https://arxiv.org/abs/1911.06136",
        {f"wikidata5m_transductive_{split}": split for split in SPLITS}, 4 * GIB,
    ),
    Dataset(
        "ogbl-wikikg2", (File(f"{OGB}wikikg-v2.zip"),), 2_500_604, 535, 17_137_181, 4_100_000_000, "CC0",
        "https://ogb.stanford.edu/docs/linkprop", "Hu et al. 2020, https://arxiv.org/abs/2005.00687", most=24 * GIB,
    ),
    Dataset(
        "ogbl-biokg", (File(f"{OGB}biokg.zip"),), 93_773, 51, 5_088_434, 960_000_000, "CC0",
        "https://ogb.stanford.edu/docs/linkprop", "Hu et al. 2020, https://arxiv.org/abs/2005.00687", most=12 * GIB,
    ),
)  # fmt: skip

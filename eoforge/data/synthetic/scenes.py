"""Scenes and countries of the synthetic archive: real Sentinel scenes of reBEN, and land cover per country.

Scene names, pairings and dates are facts of the official metadata. The area shares are set by hand so that the
frequency of each label per country is near the official one.
"""

from __future__ import annotations

from dataclasses import dataclass

Shares = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Country:
    """Land cover of a country.

    Attributes:
        agriculture: Share of farmed land (before towns and water).
        fields: CLC codes of farmed land with weights; neighbours in the list are neighbours on the ground.
        wild: CLC codes of forests and semi-natural land, likewise.
        urban: Share of towns.
        lakes: Share of lakes.
        wetland: Share of bogs or marshes.
        wetland_code: 411 (marsh) or 412 (peat bog).
        sea: Share of sea, 0 for none.
        high: (code, share) for the highest ground: grassland, rock, glaciers.
        parcel: Width and length of a typical field in metres.
        rugged: Strength of relief effects in both sensors.
        warmth: Shifts the growing season; 0 is central Europe.
    """

    agriculture: float
    fields: Shares
    wild: Shares
    urban: float = 0.02
    lakes: float = 0.01
    wetland: float = 0.01
    wetland_code: int = 412
    sea: float = 0.0
    high: Shares = ()
    parcel: tuple[float, float] = (130.0, 320.0)
    rugged: float = 0.5
    warmth: float = 0.0


_FOREST: Shares = ((311, 0.35), (313, 0.3), (312, 0.3), (324, 0.05))

COUNTRIES: dict[str, Country] = {
    "Austria": Country(
        0.6, ((221, 0.06), (211, 0.55), (242, 0.14), (243, 0.1), (231, 0.15)), _FOREST,
        urban=0.05, lakes=0.01, wetland=0.004, high=((321, 0.03), (332, 0.012)), rugged=0.9,
    ),
    "Belgium": Country(
        0.7, ((211, 0.35), (242, 0.25), (243, 0.08), (231, 0.32)), _FOREST, urban=0.12, lakes=0.006, wetland=0.006,
    ),
    "Finland": Country(
        0.12, ((211, 0.7), (243, 0.3)), ((324, 0.16), (313, 0.3), (312, 0.48), (311, 0.06)),
        urban=0.012, lakes=0.09, wetland=0.05, sea=0.12, parcel=(110.0, 260.0), rugged=0.3, warmth=-0.35,
    ),
    "Ireland": Country(
        0.75, ((211, 0.16), (242, 0.05), (243, 0.06), (231, 0.73)),
        ((312, 0.45), (324, 0.2), (322, 0.2), (321, 0.05), (311, 0.1)),
        urban=0.02, lakes=0.008, wetland=0.06, sea=0.15, parcel=(140.0, 200.0),
    ),
    "Kosovo": Country(
        0.42, ((211, 0.4), (242, 0.25), (243, 0.35)), ((311, 0.68), (324, 0.25), (321, 0.07)),
        urban=0.04, lakes=0.004, wetland=0.002, high=((321, 0.05),), parcel=(70.0, 220.0), rugged=1.0, warmth=0.15,
    ),
    "Lithuania": Country(
        0.58, ((211, 0.5), (242, 0.18), (243, 0.14), (231, 0.18)), ((311, 0.3), (313, 0.34), (312, 0.26), (324, 0.1)),
        urban=0.025, lakes=0.02, wetland=0.015, wetland_code=411, parcel=(150.0, 380.0), rugged=0.25, warmth=-0.1,
    ),
    "Luxembourg": Country(
        0.55, ((211, 0.4), (242, 0.2), (243, 0.1), (231, 0.3)), _FOREST,
        urban=0.08, lakes=0.004, wetland=0.001, rugged=0.6,
    ),
    "Portugal": Country(
        0.52, ((223, 0.14), (211, 0.22), (244, 0.28), (242, 0.13), (243, 0.13), (231, 0.1)),
        ((312, 0.1), (313, 0.13), (311, 0.34), (324, 0.33), (323, 0.1)),
        urban=0.025, lakes=0.01, wetland=0.002, wetland_code=411, sea=0.09, high=((333, 0.012), (334, 0.006)),
        parcel=(260.0, 420.0), rugged=0.7, warmth=0.4,
    ),
    "Serbia": Country(
        0.58, ((221, 0.02), (211, 0.42), (242, 0.26), (243, 0.25), (231, 0.05)),
        ((311, 0.72), (324, 0.25), (312, 0.03)),
        urban=0.03, lakes=0.01, wetland=0.008, wetland_code=411, high=((321, 0.04),), parcel=(80.0, 300.0), rugged=0.8,
        warmth=0.15,
    ),
    "Switzerland": Country(
        0.58, ((211, 0.6), (242, 0.2), (243, 0.03), (231, 0.17)), ((311, 0.16), (313, 0.48), (312, 0.32), (324, 0.04)),
        urban=0.08, lakes=0.03, wetland=0.003, high=((321, 0.05), (332, 0.03), (335, 0.008)), rugged=1.1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Sentinel-2 tile and date, with a Sentinel-1 scene that covers it.

    Attributes:
        s2: Name of the S2 tile folder.
        s1: Name of the S1 scene folder.
        country: Country of the patches.
        snow: Whether part of the tile had snow.
        across: Border through the tile: the other country, its last column and its first row.
    """

    s2: str
    s1: str
    country: str
    snow: bool = False
    across: tuple[str, int, int] | None = None

    def country_at(self, x: int, y: int) -> str:
        """Country of cell (x, y)."""
        if self.across and x <= self.across[1] and y >= self.across[2]:
            return self.across[0]
        return self.country

    @property
    def mgrs(self) -> str:
        """MGRS tile without the leading T."""
        return self.s2.rsplit("_T", 1)[1]

    @property
    def month(self) -> int:
        """Month of the optical acquisition."""
        return int(self.s2[15:17])


SCENES: tuple[Scene, ...] = (
    Scene("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1B_IW_GRDH_1SDV_20170612T165809", "Austria"),
    Scene("S2A_MSIL2A_20170704T112111_N9999_R037_T29SND", "S1A_IW_GRDH_1SDV_20170706T064300", "Portugal"),
    Scene("S2B_MSIL2A_20180525T094029_N9999_R036_T35VNL", "S1A_IW_GRDH_1SDV_20180525T153259", "Finland"),
    Scene("S2A_MSIL2A_20180430T094031_N9999_R036_T34TCR", "S1A_IW_GRDH_1SDV_20180428T164153", "Serbia"),
    Scene("S2B_MSIL2A_20170927T094019_N9999_R036_T35ULB", "S1A_IW_GRDH_1SDV_20170928T161150", "Lithuania"),
    Scene("S2A_MSIL2A_20170617T113321_N9999_R080_T29UPU", "S1A_IW_GRDH_1SDV_20170617T064724", "Ireland"),
    Scene("S2B_MSIL2A_20180204T094159_N9999_R036_T35VNJ", "S1A_IW_GRDH_1SDV_20180204T154856", "Finland", snow=True),
    Scene("S2A_MSIL2A_20170818T103021_N9999_R108_T32TMT", "S1B_IW_GRDH_1SDV_20170818T054218", "Switzerland"),
    Scene("S2B_MSIL2A_20180506T105029_N9999_R051_T31UER", "S1A_IW_GRDH_1SDV_20180508T055029", "Belgium"),
    Scene("S2A_MSIL2A_20180508T104031_N9999_R008_T31UGR", "S1A_IW_GRDH_1SDV_20180508T055029", "Belgium",
          across=("Luxembourg", 90, 40)),
    Scene("S2A_MSIL2A_20171208T093351_N9999_R136_T34TEN", "S1A_IW_GRDH_1SDV_20171207T162450", "Serbia", snow=True,
          across=("Kosovo", 30, 45)),
    Scene("S2A_MSIL2A_20171002T112111_N9999_R037_T29SNB", "S1A_IW_GRDH_1SDV_20171004T183450", "Portugal"),
    Scene("S2B_MSIL2A_20180421T100029_N9999_R122_T33TWN", "S1A_IW_GRDH_1SDV_20180421T165046", "Austria"),
    Scene("S2B_MSIL2A_20171112T114339_N9999_R123_T29UPU", "S1B_IW_GRDH_1SDV_20171112T181343", "Ireland"),
    Scene("S2B_MSIL2A_20170808T094029_N9999_R036_T35ULA", "S1A_IW_GRDH_1SDV_20170808T043524", "Lithuania"),
    Scene("S2A_MSIL2A_20180318T093031_N9999_R136_T35UMB", "S1B_IW_GRDH_1SDV_20180318T043418", "Lithuania", snow=True),
    Scene("S2A_MSIL2A_20171221T112501_N9999_R037_T29SND", "S1A_IW_GRDH_1SDV_20171221T064303", "Portugal"),
    Scene("S2A_MSIL2A_20180526T100031_N9999_R122_T34WFU", "S1A_IW_GRDH_1SDV_20180526T045642", "Finland"),
    Scene("S2B_MSIL2A_20180201T093219_N9999_R136_T34TEP", "S1B_IW_GRDH_1SDV_20180130T162407", "Serbia", snow=True),
    Scene("S2A_MSIL2A_20170905T095031_N9999_R079_T35VNL", "S1A_IW_GRDH_1SDV_20170903T153258", "Finland"),
)  # fmt: skip

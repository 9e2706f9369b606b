"""Text of strangers as a CRS: what is taken means what PROJ says, what names a file or an address is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.errors import CRSError

from eoforge.codec.raster import Georeference
from eoforge.errors import DataRefused
from eoforge.geo.crs import MAX_CHARS, MAX_DEPTH, check_crs, crs_text, parse_crs

UTM = CRS.from_epsg(32633)
CODES = (32633, 32721, 4326, 3857, 3035, 2154, 27700, 3031, 4978, 7405, 5514, 28992, 2056, 3395, 2393, 4937, 26917)
CUSTOM = (
    "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84",
    "+proj=aitoff +datum=WGS84",
    "+proj=utm +zone=33 +ellps=intl +towgs84=-87,-98,-121,0,0,0,0",
    "+proj=tmerc +lat_0=0 +lon_0=9 +k=0.9996 +ellps=GRS80 +units=us-ft",
)
GRIDS = (
    'GEOGCS["x",DATUM["x",SPHEROID["x",6378388,297]{}],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]]'
).format
PLACE = (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)

REFUSED = {
    "nothing": "",
    "a URL": "http://127.0.0.1:9/x",
    "a secure URL": "https://example.invalid/x.prj",
    "a definition by URL": "http://www.opengis.net/def/crs/EPSG/0/4326",
    "a URN": "urn:ogc:def:crs:EPSG::4326",
    "a path of GDAL": "/vsicurl/http://127.0.0.1:9/x",
    "a file": "/etc/hostname",
    "a file here": "x.prj",
    "an init file": "+init=/tmp/x:1",
    "an init code": "+init=epsg:4326",
    "a PROJ string": "+proj=utm +zone=33",
    "a pipeline": "+proj=pipeline +step +proj=hgridshift +grids=/tmp/x.gsb",
    "an authority that is not EPSG": "IGNF:LAMB93",
    "a name": "WGS84",
    "codes of a compound": "EPSG:4326+5773",
    "a code with a file": "EPSG:32633 /etc/hostname",
    "a code that no integer holds": "EPSG:99999999999",
    "digits of another script": "EPSG:\u0663\u0662",
    "PROJJSON": '{"type": "GeographicCRS", "name": "x"}',
    "deep JSON": "[" * 8000,
    "XML": "<gml:ProjectedCRS/>",
    "unfinished WKT": UTM.to_wkt()[:-1],
    "WKT and more": UTM.to_wkt() + "x",
    "two systems": UTM.to_wkt() + "," + UTM.to_wkt(),
    "large WKT": f'LOCAL_CS["{"x" * MAX_CHARS}"]',
    "deep WKT": "COMPD_CS[" * (MAX_DEPTH + 1) + '"x"' + "]" * (MAX_DEPTH + 1),
    "no system": 'PRIMEM["Greenwich",0]',
    "a grid of a datum": GRIDS(',EXTENSION["PROJ4_GRIDS","/tmp/x.gsb"]'),
    "the same in small letters": GRIDS(',extension["PROJ4_GRIDS","/tmp/x.gsb"]'),
    "a PROJ string in WKT": GRIDS(',EXTENSION["PROJ4","+proj=longlat +nadgrids=/tmp/x.gsb"]'),
    "an extension with more in it": GRIDS(',EXTENSION["PROJ4","+proj=merc",EXTENSION["x","y"]]'),
    "a name that is a PROJ string": 'LOCAL_CS["+proj=utm +zone=33"]',
    "quotes that PROJ knows": "LOCAL_CS[\u201cx\u201d]",
    "a line end in a name": 'LOCAL_CS["x\n"]',
    "a grid of a bound system": (
        f"BOUNDCRS[SOURCECRS[{CRS.from_epsg(4258).to_wkt(version='WKT2_2019')}],"
        f"TARGETCRS[{CRS.from_epsg(4326).to_wkt(version='WKT2_2019')}],"
        'ABRIDGEDTRANSFORMATION["x",METHOD["NTv2"],PARAMETERFILE["file","/tmp/x.gsb"]]]'
    ),
    "a pipeline as a method": (
        'GEOGCRS["x",BASEGEOGCRS["x",DATUM["x",ELLIPSOID["x",6378137,298]]],DERIVINGCONVERSION["x",'
        'METHOD["PROJ ob_tran o_proj=longlat"],PARAMETER["o_lon_p",0]],CS[ellipsoidal,2],AXIS["x",east],'
        'AXIS["y",north]]'
    ),
    "an operation": 'COORDINATEOPERATION["x",METHOD["NTv2"]]',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_names_a_file_or_an_address_is_refused(text: str) -> None:
    with pytest.raises(DataRefused, match="EPSG:<code>"):
        check_crs(text)
    with pytest.raises(DataRefused, match="EPSG:<code>"):
        parse_crs(text)
    if text:  # pixels may have a place without a CRS
        with pytest.raises(DataRefused, match="EPSG:<code>"):
            Georeference(text, PLACE)


@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT2_2015", "WKT2_2019"])
@pytest.mark.parametrize("crs", [*map(CRS.from_epsg, CODES), *map(CRS.from_string, CUSTOM)], ids=[*CODES, *CUSTOM])
def test_what_gdal_writes_is_read(crs: CRS, version: str) -> None:
    try:
        text = crs.to_wkt(version=version)
    except CRSError:
        text = crs.to_wkt()  # WKT 1 cannot say it; what GDAL writes then is what streams of such places hold
    assert len(text) <= MAX_CHARS
    assert parse_crs(text) == CRS.from_wkt(text)


@pytest.mark.parametrize("code", CODES)
def test_a_crs_of_a_code_has_the_code_as_its_text(code: int) -> None:
    assert crs_text(CRS.from_epsg(code)) == f"EPSG:{code}"


ALIKE = {
    "another ellipsoid and no datum": CRS.from_string("+proj=utm +zone=33 +ellps=intl"),
    "the ellipsoid of WGS 84 and no datum": CRS.from_string("+proj=utm +zone=33 +ellps=WGS84"),
    "a shift of its own": CRS.from_string("+proj=utm +zone=33 +ellps=intl +towgs84=-87,-98,-121,0,0,0,0"),
    "a shift in the place of that of the code": CRS.from_wkt(
        CRS.from_epsg(31467)
        .to_wkt()
        .replace('"7004"]]', '"7004"]],TOWGS84[598.1,73.7,418.2,0.202,0.045,-2.455,6.7]', 1)
    ),
}


@pytest.mark.parametrize("crs", [*ALIKE.values(), *map(CRS.from_string, CUSTOM)], ids=[*ALIKE, *CUSTOM])
def test_a_crs_that_resembles_a_code_is_written_out(crs: CRS) -> None:
    text = crs_text(crs)
    assert text == crs.to_wkt()
    assert parse_crs(text).to_wkt() == text


@pytest.mark.parametrize("crs", ALIKE.values(), ids=ALIKE)
def test_a_resembling_crs_has_a_code_for_rasterio(crs: CRS) -> None:
    assert crs.to_epsg()  # so the test above would fail if this code were taken


def test_a_crs_in_another_notation_has_its_code() -> None:
    assert crs_text(CRS.from_string("+proj=utm +zone=33 +datum=WGS84")) == "EPSG:32633"
    assert crs_text(CRS.from_wkt(UTM.to_wkt(version="WKT1_ESRI"))) == "EPSG:32633"


def test_codes_are_epsg_codes() -> None:
    assert parse_crs("EPSG:32633") == parse_crs("epsg:32633") == UTM
    with pytest.raises(DataRefused, match="PROJ does not know 'EPSG:99999'"):
        parse_crs("EPSG:99999")


@given(st.text(max_size=60), st.integers(0, 400), st.integers(0, 40))
def test_any_text_is_taken_or_refused(text: str, start: int, length: int) -> None:
    whole = UTM.to_wkt()
    for candidate in (text, whole[:start] + text + whole[start + length :]):
        try:
            parse_crs(candidate)
        except DataRefused:
            continue
        check_crs(candidate)

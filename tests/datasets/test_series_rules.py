"""Series by their headers: what the built-in rules take them for, rules of a user's own, and what is ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.datasets.dicom_series import Series, Study
from fuse4seg.datasets.modalities import MODALITIES
from fuse4seg.datasets.series_rules import choose_series, read_rules, rules_of
from fuse4seg.errors import AmbiguousImagesError, SeriesRulesError


def series(description: str, *, number: int = 1, modality: str = "MR", contrast: bool = False, sequence: str = "") -> Series:
    return Series(f"1.2.{number}", number, description, sequence, modality, contrast, (Path("in", f"{number}.dcm"),))


def study(*found: Series) -> Study:
    return Study("P1_20200131", "1.2", found)


def taken_for(one: Series) -> list[str]:
    """Channels that the built-in rules give a study of this series alone."""
    return [channel for channel in MODALITIES if choose_series(study(one), [channel], read_rules())]


@pytest.mark.parametrize(("description", "modality"), [
    *((name, "T1") for name in ("t1_mprage_sag_p2_iso", "AX T1", "SAG 3D BRAVO", "T1 SE pre", "T1W_3D_TFE", "Ax T1 FLAIR",
                                "t1_se_tra", "T1 nativ tra", "MPRAGE", "t1_space_sag", "T1 without contrast", "AX T1 W/O",
                                "AX T1 PRE GD", "T1 preop", "SAG T1 | head routine")),
    *((name, "T1ce") for name in ("t1_mprage_sag_p2_iso_KM", "AX T1 +C", "Ax T1 POST", "T1 GD", "T1ce", "t1_space_ce",
                                  "3D T1 post contrast", "POST AX T1", "SAG 3D BRAVO +C", "T1 C+", "t1c", "GAD T1 COR",
                                  "preop T1 Gd", "T1 W SE | Brain with contrast")),
    *((name, "T2") for name in ("t2_tse_tra", "AX T2 FSE", "T2W_TSE", "Ax T2 PROPELLER", "t2_space_sag")),
    *((name, "FLAIR") for name in ("t2_tirm_tra_dark-fluid", "AX T2 FLAIR", "FLAIR", "Sag CUBE FLAIR", "AX FLAIR +C",
                                   "t2_space_dark-fluid_sag")),
    *((name, None) for name in ("localizer", "ep2d_diff_3scan_trace", "ADC", "SWI", "Ax T2* GRE", "t2_fl2d_tra_hemo",
                                "T1 MAP", "T2 map", "dsc perfusion", "T1 sub", "MIP T1 post", "t1_dyn_vibe", ""))])
def test_descriptions_tell_sequences_of_mr(description: str, modality: str | None) -> None:
    assert taken_for(series(description)) == ([modality] if modality else [])


@pytest.mark.parametrize(("one", "modality"), [
    (series("AX T1", contrast=True), "T1ce"), (series("AX T1 pre", contrast=True), None),
    (series("AX T2", contrast=True), "T2"), (series("FLAIR", contrast=True), "FLAIR"),
    (series("head 1.0", modality="CT"), "CT"), (series("Topogram", modality="CT"), None),
    (series("PET AC", modality="PT"), "PET"), (series("PET NAC", modality="PT"), None), (series("T1", modality="CT"), "CT")])
def test_contrast_and_modality_count(one: Series, modality: str | None) -> None:
    assert taken_for(one) == ([modality] if modality else [])


class TestChoice:
    def test_gives_each_channel_its_series(self) -> None:
        found = [series("AX T1"), series("AX T1", number=2, contrast=True), series("AX T2", number=3)]
        assert choose_series(study(*found), ["T2", "t1gd", "T1"], read_rules()) == {"T2": found[2], "t1gd": found[1],
                                                                                  "T1": found[0]}

    def test_leaves_out_what_is_not_there(self) -> None:
        assert choose_series(study(series("AX T1")), ["T1", "FLAIR"], read_rules()).keys() == {"T1"}

    def test_takes_the_first_rule_that_finds_anything(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("[[T1]]\ndescription = 'iso'\n[[T1]]\nmodality = 'MR'\n")
        found = [series("thick"), series("iso", number=2)]
        assert choose_series(study(*found), ["T1"], read_rules(tmp_path / "rules.toml")) == {"T1": found[1]}

    def test_two_series_are_both_named_with_a_table_that_would_choose(self, tmp_path: Path) -> None:
        found = study(series("AX T1 (3D)"), series("SAG T1", number=2))
        with pytest.raises(AmbiguousImagesError) as caught:
            choose_series(found, ["T1"], read_rules())
        said = str(caught.value)
        assert said.startswith("case P1_20200131: T1 could be series 1 'AX T1 (3D)' (1 file(s) in in) or series 2 'SAG T1' ")
        assert len(said.splitlines()) == 1
        (tmp_path / "rules.toml").write_text(said.partition("for example ")[2])
        assert choose_series(found, ["T1"], read_rules(tmp_path / "rules.toml")) == {"T1": found.series[0]}

    @pytest.mark.parametrize("description", ["AX T1", "it's T1"])
    def test_series_that_descriptions_cannot_tell_apart_are_told_by_their_uid(self, description: str) -> None:
        with pytest.raises(AmbiguousImagesError, match=r'T1 = \[\{series = "1\.2\.1"\}\]$'):
            choose_series(study(series(description), series(description, number=2)), ["T1"], read_rules())

    def test_one_series_for_two_channels_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("[[T1]]\nmodality = 'MR'\n[[T2]]\nmodality = 'MR'\n")
        with pytest.raises(AmbiguousImagesError, match="T1 and T2 could be series 1"):
            choose_series(study(series("AX")), ["T1", "T2"], read_rules(tmp_path / "rules.toml"))


class TestRules:
    def test_of_a_file_take_the_place_of_those_of_their_channels_alone(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("[[T1]]\nnumber = 3\n[['b 1000']]\nsequence = 'ep2d'\n")
        rules = read_rules(tmp_path / "rules.toml")
        assert [rule.number for rule in rules["T1"]] == [3]
        assert rules["T2"] == read_rules()["T2"]
        assert choose_series(study(series("x", sequence="*ep2d1 SE")), ["B 1000"], rules).keys() == {"B 1000"}

    def test_of_a_channel_go_before_those_of_its_modality(self, tmp_path: Path) -> None:
        (tmp_path / "rules.toml").write_text("[[t1gd]]\nnumber = 7\n")
        rules = read_rules(tmp_path / "rules.toml")
        assert [rule.number for rule in rules_of("T1Gd", rules)] == [7]
        assert rules_of("T1ce", rules) == read_rules()["T1ce"]
        assert rules_of("ADC", rules) == ()

    @pytest.mark.parametrize(("text", "said"), [
        (None, "is missing"), ("[[T1]\n", "cannot be read as TOML"), ("T1 = 3\n", r"T1 is no list of tables.*\[\[T1\]\]"),
        ("[T1]\nnumber = 3\n", "T1 is no list of tables"), ("[[T1]]\n", "T1 has a table without entries"),
        ("[[T1]]\ncolour = 'red'\n", "T1 has colour = 'red'.*Entries are modality, description"),
        ("[[T1]]\nnumber = '3'\n", "T1 has number = '3'"), ("[[T1]]\nnumber = true\n", "T1 has number = True"),
        ("[[T1]]\ndescription = '('\n", "description is no regular expression"), ("[[T1]]\ncontrast = 1\n", "contrast = 1")])
    def test_that_are_none_are_named_with_their_file(self, text: str | None, said: str, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "rules.toml").write_text(text)
        with pytest.raises(SeriesRulesError, match=rf"rules\.toml: .*{said}"):
            read_rules(tmp_path / "rules.toml")

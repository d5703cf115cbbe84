"""What a workbook's small parts say: its sheets and where their parts are, its date system, its shared strings.

Parts are found by relationship type, as ECMA-376 part 1 (12.3, 18.2) asks; relationships that lead outside the file
are never followed.
"""

from __future__ import annotations

import posixpath
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from batch_jobs.config import nearest
from batch_jobs.errors import FileRefused, UnknownName
from batch_jobs.intake.xlsx_package import Nesting, Package, feed, xml_parser

# ECMA-376 part 1 annex A (strict) and part 4 (transitional).
MAIN_NAMESPACES = (
    "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "http://purl.oclc.org/ooxml/spreadsheetml/main",
)
MAX_ELEMENTS = 100_000  # of the wanted kind in one small part
MAX_SHARED_STRINGS = 20_000_000
XML_SPACE = " \t\r\n"
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_CONTENT_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_SAVE_AGAIN = "Open it in Excel and save it again as .xlsx"


@dataclass(frozen=True, slots=True)
class SheetPart:
    """One worksheet: its name, whether it is shown, and its part."""

    name: str
    visible: bool
    part: zipfile.ZipInfo


@dataclass(frozen=True, slots=True)
class Workbook:
    """The workbook's parts that matter for a table.

    Attributes:
        sheets: worksheets in tab order; chart and dialog sheets are none.
        shared_strings: the part, if there is one.
        styles: the part, if there is one.
        date1904: dates count from 1904 instead of 1900 (ECMA-376 part 1, 18.2.28).
    """

    sheets: tuple[SheetPart, ...]
    shared_strings: zipfile.ZipInfo | None
    styles: zipfile.ZipInfo | None
    date1904: bool

    def pick(self, name: str | None, filename: str) -> SheetPart:
        """The sheet of that name, or the first visible one.

        Raises:
            UnknownName: no such sheet; lists what there is.
            FileRefused: there is no worksheet at all.
        """
        if name is None:
            shown = [sheet for sheet in self.sheets if sheet.visible] or list(self.sheets)
            if not shown:
                raise FileRefused("holds no worksheet", file=filename, fix="Put the table on a worksheet")
            return shown[0]
        for sheet in self.sheets:
            if sheet.name == name:
                return sheet
        names = [sheet.name for sheet in self.sheets]
        listed = ", ".join(f'"{there}"' for there in names)
        raise UnknownName(f'{filename}: there is no sheet "{name}"{nearest(name, names)} (there is: {listed})')


def read_workbook(package: Package) -> Workbook:
    """Find the workbook part and read its sheets.

    Raises:
        FileRefused: no workbook, macros by content type, or parts that lead nowhere or outside.
    """
    _check_content_types(package)
    main = [target for kind, _, target in _relations(package, "") if kind == "officeDocument"]
    book = package.find(main[0]) if main and main[0] is not None else None
    if book is None:
        package.refuse("holds no workbook")
    relations = {key: (kind, target) for kind, key, target in _relations(package, book.filename)}
    by_kind = dict(relations.values())
    sheets = []
    date1904 = False
    for name, attributes in _elements(package, book, MAIN_NAMESPACES, ("sheet", "workbookPr")):
        if name == "workbookPr":
            date1904 = attributes.get("date1904") in ("1", "true")
            continue
        kind, target = relations.get(_relation_id(attributes), ("", None))
        if kind == "worksheet":
            sheets.append(_sheet(package, attributes, target))
    return Workbook(
        tuple(sheets), _part(package, by_kind, "sharedStrings"), _part(package, by_kind, "styles"), date1904
    )


def shared_sizes(package: Package, info: zipfile.ZipInfo | None) -> array[int]:
    """UTF-8 bytes of every shared string; 0 means that a cell with it is empty.

    Without `xml:space="preserve"` the blanks at both ends of a `t` count for nothing; phonetic runs (`rPh`) are no
    text (ECMA-376 part 1, 18.4.8, 18.4.6, 18.4.12).

    Raises:
        FileRefused: the part is hostile or damaged, or has too many strings.
    """
    sizes: array[int] = array("L")
    if info is not None:
        feed(package, info, _SharedStrings(package, info, sizes).parser, package.chunks(info))
    return sizes


def check_xml(package: Package, info: zipfile.ZipInfo | None) -> None:
    """Refuse a part that is hostile or damaged, before another library parses it."""
    if info is not None:
        feed(package, info, xml_parser(package, info), package.chunks(info))


class _SharedStrings:
    """Collects the sizes while the part streams by."""

    def __init__(self, package: Package, info: zipfile.ZipInfo, sizes: array[int]) -> None:
        self.parser = xml_parser(package, info)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self._package = package
        self._nesting = Nesting(package, info)  # of all tags but those that can't be nested in each other
        self._alone = {"si": False, "t": False}  # whether one is open
        self._sizes = sizes
        self._size = 0
        self._phonetic = self._preserve = False
        self._pieces: list[str] = []

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name in self._alone:
            if self._alone[name]:
                self._package.refuse("holds texts that stand in each other")
            self._alone[name] = True
        else:
            self._nesting.opened()
        if name == "t" and not self._phonetic:
            self._preserve = attributes.get("xml:space") == "preserve"
            self._pieces = []
            self.parser.CharacterDataHandler = self._pieces.append
        elif name == "rPh":
            self._phonetic = True
        elif name == "si":
            self._size = 0

    def _end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name in self._alone:
            self._alone[name] = False
        else:
            self._nesting.closed()
        if name == "t" and not self._phonetic:
            self.parser.CharacterDataHandler = None
            text = "".join(self._pieces)
            self._size += len((text if self._preserve else text.strip(XML_SPACE)).encode())
        elif name == "rPh":
            self._phonetic = False
        elif name == "si":
            self._sizes.append(self._size)
            if len(self._sizes) > MAX_SHARED_STRINGS:
                self._package.refuse(f"holds more than {MAX_SHARED_STRINGS:,} texts", "Split the table")


def _check_content_types(package: Package) -> None:
    info = package.find("[Content_Types].xml")
    if info is None:
        package.refuse("is a zip archive, but no workbook")
    for _, attributes in _elements(package, info, (_CONTENT_TYPES,), ("Override", "Default")):
        content_type = attributes.get("ContentType", "").lower()
        if "macro" in content_type or "vbaproject" in content_type:
            package.refuse("holds macros, or is a binary workbook", "Save it as .xlsx, without macros")


def _relations(package: Package, source: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield last word of the type, id, and the part's name (None when it leads outside) of a part's relations."""
    folder, name = posixpath.split(source)
    info = package.find(posixpath.join(folder, "_rels", f"{name}.rels"))
    if info is None:
        return
    for _, attributes in _elements(package, info, (_RELATIONSHIPS,), ("Relationship",)):
        outside = attributes.get("TargetMode", "Internal") != "Internal"
        target = posixpath.normpath(posixpath.join("/", folder, attributes.get("Target", ""))).lstrip("/")
        yield attributes.get("Type", "").rpartition("/")[2], attributes.get("Id", ""), None if outside else target


def _relation_id(attributes: dict[str, str]) -> str:
    """The `r:id`, whatever the prefix and the edition's namespace."""
    ids = (value for key, value in attributes.items() if key.endswith("/relationships id"))
    return next(ids, "")


def _sheet(package: Package, attributes: dict[str, str], target: str | None) -> SheetPart:
    part = package.find(target) if target is not None else None
    name = attributes.get("name", "")
    if part is None:
        package.refuse(f'the part of its sheet "{name}" is missing')
    return SheetPart(name, attributes.get("state", "visible") == "visible", part)


def _part(package: Package, by_kind: dict[str, str | None], kind: str) -> zipfile.ZipInfo | None:
    target = by_kind.get(kind)
    return None if target is None else package.find(target)


def _elements(
    package: Package, info: zipfile.ZipInfo, namespaces: tuple[str, ...], wanted: tuple[str, ...]
) -> list[tuple[str, dict[str, str]]]:
    """Local name and attributes of all wanted elements of a part, in order; nothing else is kept."""
    found: list[tuple[str, dict[str, str]]] = []
    names = {f"{namespace} {name}": name for namespace in namespaces for name in wanted}
    parser = xml_parser(package, info, namespaces=True)

    nesting = Nesting(package, info)

    def start(name: str, attributes: dict[str, str]) -> None:
        nesting.opened()
        if name in names:
            found.append((names[name], attributes))
            if len(found) > MAX_ELEMENTS:
                package.refuse(f'its part "{info.filename}" holds too many entries')

    parser.StartElementHandler, parser.EndElementHandler = start, nesting.closed
    feed(package, info, parser, package.chunks(info))
    return found

"""What the generated world sells: kinds of product with their price bands, attributes and options. Data only.

Rules that the words keep, and a test holds them to: an attribute is no part of another attribute of its kind, of a
brand, of a filler sentence or of an option value, because WebShop's reward finds attributes as substrings of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

ROOTS = MappingProxyType(
    {
        "beauty": "Beauty & Personal Care",
        "electronics": "Electronics",
        "garden": "Home & Kitchen",
        "fashion": "Clothing, Shoes & Jewelry",
        "grocery": "Grocery & Gourmet Food",
    }
)
"""WebShop's five categories and the root of their `product_category` path."""

COMMON = ("premium", "imported", "certified")
"""Attributes that any kind of product can have. So common that a search engine makes little of them."""


@dataclass(frozen=True, slots=True)
class Ware:
    """One kind of product.

    Attributes:
        name: as shoppers type it; the product's `query`.
        low, high: price band, whole dollars.
        kinds: attributes that stand before the name ("waterproof").
        parts: attributes that stand after "with" ("pockets").
        options: group name to its palette.
    """

    name: str
    category: str
    low: int
    high: int
    kinds: tuple[str, ...]
    parts: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]


def _ware(line: str) -> Ware:
    name, category, band, kinds, parts, *options = (field.strip() for field in line.split("|"))
    low, high = band.split("-")
    groups = tuple((group.split(":")[0].strip(), _listed(group.split(":")[1])) for group in options)
    return Ware(name, category, int(low), int(high), (*COMMON, *_listed(kinds)), _listed(parts), groups)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


_LINES = """
shampoo | beauty | 8-155 | vegan, organic, sulfate free | keratin, biotin, argan oil
    | size: mini, travel, regular, family
conditioner | beauty | 8-190 | vegan, organic, sulfate free | keratin, collagen, argan oil
lipstick | beauty | 7-130 | matte, vegan, long lasting | collagen, jojoba, vitamin e
    | color: red, pink, coral, plum, brown
mascara | beauty | 7-175 | waterproof, vegan, long lasting | keratin, biotin, collagen
face cream | beauty | 14-250 | organic, soothing, oil free | collagen, aloe, retinol
body lotion | beauty | 11-180 | organic, soothing, cruelty free | aloe, collagen, jojoba
    | scent: lavender, citrus, vanilla, mint
sunscreen | beauty | 11-225 | waterproof, tinted, oil free | aloe, zinc, vitamin e
perfume | beauty | 30-250 | floral, woody, long lasting | musk, jasmine, amber
nail polish | beauty | 7-115 | matte, vegan, quick dry | glitter, biotin, keratin
    | color: red, pink, navy, plum, white
hair brush | beauty | 8-225 | wooden, foldable, anti static | mirror, handle, bristles
soap | beauty | 6-80 | organic, vegan, palm free | aloe, charcoal, oatmeal
    | scent: lavender, citrus, mint, rose | size: single, double, triple, family
serum | beauty | 14-250 | vegan, organic, cruelty free | retinol, collagen, peptides
headphones | electronics | 30-250 | wireless, foldable, noise cancelling | microphone, bass, earpads
    | color: black, white, blue, red
earbuds | electronics | 20-250 | wireless, waterproof, noise cancelling | microphone, bass, earhooks
charger | electronics | 11-250 | wireless, portable, fast charging | display, stand, adapter
speaker | electronics | 20-250 | wireless, waterproof, loud | microphone, subwoofer, lights
    | color: black, blue, red, gray
keyboard | electronics | 20-250 | wireless, mechanical, bluetooth | backlight, numpad, touchpad
    | switch: linear, tactile, clicky, silent
mouse | electronics | 11-250 | wireless, silent, bluetooth | backlight, trackball, side buttons
webcam | electronics | 20-250 | wireless, portable, wide angle | microphone, tripod, shutter
projector | electronics | 85-250 | wireless, portable, high definition | speakers, zoom, remote
phone case | electronics | 7-155 | magnetic, shockproof, leather | kickstand, strap, card holder
    | color: black, navy, pink, green
hdmi cable | electronics | 7-155 | braided, flexible, high speed | ethernet, adapter, ties
    | length: short, medium, long, extra
power bank | electronics | 17-250 | portable, magnetic, fast charging | flashlight, display, cables
smart watch | electronics | 35-250 | waterproof, slim, touch screen | compass, gps, alarm
    | color: black, silver, pink, blue | band: small, medium, large, giant
desk lamp | garden | 14-250 | dimmable, foldable, rechargeable | clock, clamp, usb port
rug | garden | 20-250 | washable, handmade, non slip | fringe, border, tassels
    | color: gray, blue, beige, brown | size: small, medium, large, giant
curtains | garden | 13-225 | blackout, washable, linen | grommets, lining, tassels
    | color: gray, navy, beige, white | size: short, medium, long, extra
pillow | garden | 11-250 | washable, cooling, hypoallergenic | zipper, feathers, memory foam
blanket | garden | 13-240 | washable, fluffy, knitted | fringe, sherpa, hood
    | color: gray, blue, pink, green | size: twin, full, queen, king
mirror | garden | 20-250 | round, vintage, rustic | lights, shelf, metal frame
bookshelf | garden | 40-250 | wooden, modern, space saving | drawers, wheels, metal frame
coffee table | garden | 55-250 | wooden, modern, space saving | drawers, wheels, metal legs
    | color: black, white, brown, gray
planter | garden | 8-250 | ceramic, hanging, self watering | drainage, saucer, handle
stool | garden | 20-250 | wooden, foldable, swivel | cushion, wheels, metal legs
vase | garden | 11-250 | ceramic, handmade, clear | handle, gold rim, texture
wall clock | garden | 11-250 | silent, wooden, round | thermometer, pendulum, numerals
backpack | fashion | 25-250 | waterproof, padded, vintage | pockets, wheels, usb port
    | color: black, gray, navy, green
sneakers | fashion | 20-250 | breathable, lightweight, non slip | laces, memory foam, rubber sole
    | color: black, white, blue, red | size: 38, 39, 40, 41
boots | fashion | 35-250 | waterproof, insulated, non slip | laces, zipper, rubber sole
    | color: black, brown, tan, red | size: 38, 39, 40, 41
sandals | fashion | 11-190 | vegan, padded, open toe | buckle, platform, rubber sole
    | color: black, brown, white, pink | size: 36, 37, 38, 39
dress | fashion | 16-250 | floral, sleeveless, machine wash | pockets, belt, buttons
    | color: black, red, blue, green | size: small, medium, large, giant
jacket | fashion | 30-250 | waterproof, insulated, vintage | pockets, zipper, hood
    | color: black, navy, green, red | size: small, medium, large, giant
hoodie | fashion | 16-210 | oversized, cotton, machine wash | pockets, zipper, drawstring
    | color: black, gray, navy, pink | size: small, medium, large, giant
jeans | fashion | 30-250 | stretchy, ripped, slim fit | pockets, zipper, embroidery
    | size: small, medium, large, giant
scarf | fashion | 11-235 | silk, knitted, machine wash | fringe, tassels, pompoms | color: red, beige, navy, green
hat | fashion | 11-210 | knitted, wide brim, packable | ribbon, chin strap, lining | color: black, beige, navy, white
gloves | fashion | 11-235 | waterproof, leather, touch screen | lining, zipper, wrist strap
    | size: small, medium, large, giant
wallet | fashion | 11-250 | slim, leather, minimalist | zipper, coin pocket, money clip
    | color: black, brown, tan, red
coffee | grocery | 7-110 | organic, decaf, fair trade | chicory, mushrooms, caramel
    | flavor: vanilla, hazelnut, mocha, plain | size: single, double, triple, family
green tea | grocery | 7-190 | organic, decaf, fair trade | ginger, jasmine, lemon
cookies | grocery | 7-130 | vegan, crunchy, soft | almonds, raisins, cinnamon | flavor: vanilla, lemon, mocha, plain
granola | grocery | 7-160 | organic, vegan, gluten free | almonds, raisins, coconut
popcorn | grocery | 7-160 | organic, salted, air popped | caramel, cheddar, truffle
olive oil | grocery | 11-250 | organic, cold pressed, spicy | garlic, rosemary, lemon
pasta | grocery | 7-160 | organic, vegan, high protein | spinach, lentils, quinoa
crackers | grocery | 7-145 | organic, crunchy, low carb | sesame, rosemary, cheddar
trail mix | grocery | 8-155 | organic, salted, nut free | raisins, cranberries, seeds
    | size: single, double, triple, family
protein bar | grocery | 11-210 | vegan, crunchy, kosher | almonds, fiber, coconut
    | flavor: vanilla, mocha, banana, mint
hot sauce | grocery | 7-130 | organic, smoky, mild | garlic, mango, ginger | size: mini, travel, regular, family
beef jerky | grocery | 8-180 | smoky, spicy, grass fed | garlic, ginger, sesame | size: single, double, triple, family
"""

WARES: tuple[Ware, ...] = tuple(_ware(line) for line in _LINES.replace("\n    |", " |").strip().splitlines())

BRANDS: tuple[str, ...] = _listed(
    "Abrento, Belvani, Cordova, Dunrik, Elvanor, Farlund, Gondra, Helvik, Ibaro, Jontel, Kestrin, Lumera, Morvane, "
    "Nordiq, Olvera, Pavanti, Quorin, Ravelo, Sandrik, Tovara, Ulmeta, Velgard, Wystan, Xandor, Yorvik, Zelmira, "
    "Ardeno, Brivolt, Calderi, Drovan"
)
"""Invented; any resemblance to a company is chance."""

FILLERS: tuple[str, ...] = (
    "A good gift for friends and parents.",
    "Tested by our own team before it ships.",
    "Loved by thousands of happy customers.",
    "Contact us at any time with questions.",
    "Made in small batches with care.",
    "Our best seller for three years.",
    "Returns are free within one month.",
    "Comes in a plain recycled box.",
    "Great value for every budget.",
    "A new design for this season.",
)
"""Sentences that say nothing about the product, as real descriptions are full of."""

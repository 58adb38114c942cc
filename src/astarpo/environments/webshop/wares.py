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
    return Ware(name, category, int(low), int(high), _listed(kinds), _listed(parts), groups)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


_LINES = """
shampoo | beauty | 6-60 | vegan, organic, gentle, hydrating, sulfate free | keratin, biotin, argan oil
    | size: mini, travel, family
conditioner | beauty | 6-60 | vegan, organic, gentle, hydrating, sulfate free | keratin, collagen, argan oil
lipstick | beauty | 5-50 | matte, vegan, glossy, hydrating, long lasting | collagen, jojoba, vitamin e
    | color: red, pink, coral, plum, brown
mascara | beauty | 5-55 | waterproof, vegan, gentle, volumizing, long lasting | keratin, biotin, collagen
face cream | beauty | 10-110 | organic, soothing, hydrating, vegan, oil free | collagen, aloe, retinol
body lotion | beauty | 8-70 | organic, soothing, gentle, vegan, cruelty free | aloe, collagen, jojoba
    | scent: lavender, citrus, vanilla, mint
sunscreen | beauty | 8-70 | waterproof, tinted, gentle, mineral, oil free | aloe, zinc, vitamin e
perfume | beauty | 20-200 | floral, woody, vegan, unisex, long lasting | musk, jasmine, amber
nail polish | beauty | 5-45 | matte, vegan, glossy, quick dry | glitter, biotin, keratin
    | color: red, pink, navy, plum, white
hair brush | beauty | 6-70 | wooden, foldable, ionic, gentle, anti static | mirror, handle, bristles
soap | beauty | 5-50 | organic, vegan, handmade, exfoliating, palm free | aloe, charcoal, oatmeal
    | scent: lavender, citrus, mint, rose | size: single, double, family
serum | beauty | 10-120 | vegan, organic, soothing, hydrating, cruelty free | retinol, collagen, peptides
headphones | electronics | 20-240 | wireless, foldable, bluetooth, lightweight, noise cancelling
    | microphone, bass, earpads
    | color: black, white, blue, red
earbuds | electronics | 15-180 | wireless, waterproof, bluetooth, lightweight, noise cancelling
    | microphone, bass, earhooks
charger | electronics | 8-80 | wireless, portable, foldable, magnetic, fast charging | display, stand, adapter
speaker | electronics | 15-220 | wireless, waterproof, portable, bluetooth, loud | microphone, subwoofer, lights
    | color: black, blue, red, gray
keyboard | electronics | 15-190 | wireless, mechanical, ergonomic, compact, bluetooth | backlight, numpad, touchpad
    | switch: linear, tactile, clicky
mouse | electronics | 8-110 | wireless, silent, ergonomic, rechargeable, bluetooth
    | backlight, trackball, side buttons
webcam | electronics | 15-160 | wireless, portable, adjustable, autofocus, wide angle | microphone, tripod, shutter
projector | electronics | 60-250 | wireless, portable, bluetooth, compact, high definition | speakers, zoom, remote
phone case | electronics | 5-60 | magnetic, shockproof, clear, slim, leather | kickstand, strap, card holder
    | color: black, navy, pink, green
hdmi cable | electronics | 5-60 | braided, flexible, shielded, gold plated, high speed | ethernet, adapter, ties
    | length: short, medium, long
power bank | electronics | 12-120 | portable, magnetic, solar, compact, fast charging | flashlight, display, cables
smart watch | electronics | 30-240 | waterproof, slim, rugged, bluetooth, touch screen | compass, gps, alarm
    | color: black, silver, pink, blue | band: small, medium, large
desk lamp | garden | 10-130 | dimmable, foldable, adjustable, modern, rechargeable | clock, clamp, usb port
rug | garden | 20-240 | washable, handmade, fluffy, vintage, non slip | fringe, border, tassels
    | color: gray, blue, beige, brown | size: small, medium, large
curtains | garden | 12-140 | blackout, washable, insulated, modern, linen | grommets, lining, tassels
    | color: gray, navy, beige, white | size: short, medium, long
pillow | garden | 8-100 | washable, cooling, fluffy, orthopedic, hypoallergenic | zipper, feathers, memory foam
blanket | garden | 12-150 | washable, fluffy, weighted, handmade, knitted | fringe, sherpa, hood
    | color: gray, blue, pink, green | size: twin, queen, king
mirror | garden | 15-200 | round, vintage, modern, foldable, rustic | lights, shelf, metal frame
bookshelf | garden | 30-250 | wooden, modern, rustic, foldable, space saving | drawers, wheels, metal frame
coffee table | garden | 40-250 | wooden, modern, round, rustic, space saving | drawers, wheels, metal legs
    | color: black, white, brown
planter | garden | 6-80 | ceramic, hanging, modern, stackable, self watering | drainage, saucer, handle
stool | garden | 15-160 | wooden, foldable, stackable, rustic, swivel | cushion, wheels, metal legs
vase | garden | 8-90 | ceramic, handmade, modern, round, clear | handle, gold rim, texture
wall clock | garden | 8-110 | silent, wooden, vintage, modern, round | thermometer, pendulum, numerals
backpack | fashion | 18-180 | waterproof, padded, foldable, lightweight, vintage | pockets, wheels, usb port
    | color: black, gray, navy, green
sneakers | fashion | 20-190 | breathable, lightweight, padded, vegan, non slip | laces, memory foam, rubber sole
    | color: black, white, blue, red | size: 38, 39, 40, 41
boots | fashion | 30-240 | waterproof, insulated, vintage, leather, non slip | laces, zipper, rubber sole
    | color: black, brown, tan | size: 38, 39, 40, 41
sandals | fashion | 10-120 | vegan, padded, waterproof, leather, open toe | buckle, platform, rubber sole
    | color: black, brown, white, pink | size: 36, 37, 38, 39
dress | fashion | 15-180 | floral, sleeveless, pleated, stretchy, machine wash | pockets, belt, buttons
    | color: black, red, blue, green | size: small, medium, large
jacket | fashion | 25-240 | waterproof, insulated, windproof, lightweight, vintage | pockets, zipper, hood
    | color: black, navy, green, red | size: small, medium, large
hoodie | fashion | 15-130 | oversized, cotton, vintage, thermal, machine wash | pockets, zipper, drawstring
    | color: black, gray, navy, pink | size: small, medium, large
jeans | fashion | 20-160 | stretchy, ripped, vintage, cropped, slim fit | pockets, zipper, embroidery
    | size: small, medium, large
scarf | fashion | 8-90 | silk, knitted, floral, striped, machine wash | fringe, tassels, pompoms
    | color: red, beige, navy, green
hat | fashion | 8-80 | knitted, wide brim, foldable, breathable, packable | ribbon, chin strap, lining
    | color: black, beige, navy, white
gloves | fashion | 8-90 | waterproof, leather, insulated, thermal, touch screen | lining, zipper, wrist strap
    | size: small, medium, large
wallet | fashion | 8-100 | slim, leather, vegan, handmade, minimalist | zipper, coin pocket, money clip
    | color: black, brown, tan
coffee | grocery | 6-70 | organic, decaf, ground, instant, fair trade | chicory, mushrooms, caramel
    | flavor: vanilla, hazelnut, mocha | size: single, double, family
green tea | grocery | 5-60 | organic, decaf, loose leaf, instant, fair trade | ginger, jasmine, lemon
cookies | grocery | 5-50 | vegan, crunchy, sugar free, gluten free, soft | almonds, raisins, cinnamon
    | flavor: vanilla, lemon, mocha
granola | grocery | 5-50 | organic, vegan, crunchy, roasted, gluten free | almonds, raisins, coconut
popcorn | grocery | 5-50 | organic, salted, kosher, buttery, air popped | caramel, cheddar, truffle
olive oil | grocery | 8-90 | organic, cold pressed, unfiltered, kosher, spicy | garlic, rosemary, lemon
pasta | grocery | 5-50 | organic, vegan, egg free, gluten free, high protein | spinach, lentils, quinoa
crackers | grocery | 5-45 | organic, crunchy, salted, gluten free, low carb | sesame, rosemary, cheddar
trail mix | grocery | 6-60 | organic, salted, roasted, kosher, nut free | raisins, cranberries, seeds
    | size: single, double, family
protein bar | grocery | 8-80 | vegan, crunchy, sugar free, low carb, kosher | almonds, fiber, coconut
    | flavor: vanilla, mocha, banana, mint
hot sauce | grocery | 5-50 | organic, smoky, fermented, sugar free, mild | garlic, mango, ginger
    | size: mini, regular, family
beef jerky | grocery | 6-70 | smoky, spicy, sugar free, low carb, grass fed | garlic, ginger, sesame
    | size: single, double, family
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

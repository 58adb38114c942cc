"""WebShop: a shop to search in, a product to find, options to choose, one purchase, one score."""

from astarpo.environments.webshop.environment import Webshop, WebshopSettings

__all__ = ["Webshop", "WebshopSettings"]

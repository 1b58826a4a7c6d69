"""A unittest case whose class shares one site; a leak at the end fails the module."""
import unittest

import pyro_site as site


class SiteCase(unittest.TestCase):
    config = ""

    @classmethod
    def setUpClass(cls):
        cls.site = site.Site(cls.config).start()
        cls.addClassCleanup(cls.site.close)

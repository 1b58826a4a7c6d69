"""A unittest case whose class shares one site; a leak at the end fails the module."""
import unittest

import children
import pyro_site as site


class SiteCase(unittest.TestCase):
    config = ""

    @classmethod
    def setUpClass(cls):
        cls.site = site.Site(cls.config)
        cls.addClassCleanup(cls.site.close)
        cls.site.start()

    def setUp(self):
        self.site.start_again()

    def popen(self, *args, **kwargs):
        return children.ends_with(self, self.site.popen(*args, **kwargs))

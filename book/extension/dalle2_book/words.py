"""The words that the book's own machinery puts on a page, in both languages."""

from __future__ import annotations

from sphinx.config import Config

WORDS = {
    "en": {
        "switch": "中文",  # in the words of the reader who needs it
        "switch tooltip": "本页的中文版",
        "switch language": "zh-CN",
        "show solution": "Show the solution",
        "hide solution": "Hide the solution",
        "slides": "Slides",
        "run": (
            "The results on this page are from a real run at the {tier} tier ({device};"
            " {minutes} minutes"
        ),
        "date": "; {date}",
        "commit": "; code of commit {commit}",
        "run end": ")",
        "source": "Source of {path}",
    },
    "zh": {
        "switch": "English",
        "switch tooltip": "This page in English",
        "switch language": "en",
        "show solution": "显示参考答案",
        "hide solution": "隐藏参考答案",
        "slides": "幻灯片",
        "run": "本页结果来自 {tier} 档的一次真实运行（{device}；{minutes} 分钟",
        "date": "；{date}",
        "commit": "；代码提交 {commit}",
        "run end": "）",
        "source": "{path} 的源代码",
    },
}

# Texts of Sphinx and the themes that have no Chinese, or a poor one, in the catalogues
# they ship.
THEME_ZH = {
    "Back to top": "回到顶部",
    "Breadcrumb": "所在位置",
    "Collapse Sidebar": "收起侧栏",
    "Color mode": "明暗模式",
    "Dark": "深色",
    "Expand Sidebar": "展开侧栏",
    "Hide Search Matches": "取消高亮",
    "Light": "浅色",
    "Next": "下一页",
    "Page navigation": "本页导航",
    "Previous": "上一页",
    "Primary": "主导航",
    "Print to PDF": "打印为 PDF",
    "Search this book": "在本书中搜索",
    "Site navigation": "全书导航",
    "Skip to main content": "跳到正文",
    "System Settings": "跟随系统",
    "Version warning": "版本提示",
    "next": "下一页",
    "next page": "下一页",
    "© Copyright %(copyright)s.": "版权所有 © %(copyright)s。",
    "Copyright %(copyright)s": "版权所有 © %(copyright)s",
    "previous": "上一页",
    "previous page": "上一页",
}


def language_of(config: Config) -> str:
    """The language of this build, and the folder of its texts: en or zh."""
    return "zh" if config.language.startswith("zh") else "en"


def words(config: Config) -> dict[str, str]:
    return WORDS[language_of(config)]
